"""How well embeddings tell the classes of a label set apart: by nearest neighbors, and by few labels.

Every item is asked about with its own label hidden. Nothing is trained and the index has no part in
it, so a change of accuracy is a change of the embeddings.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.exact import exact_search
from index.snapshot import Snapshot
from vicinal.types import F32Array, F64Array, I64Array, Metric

SHOTS = 5
"""Labels a class in the few-shot measurement."""
_MOST_ITEMS = 4000
_LEAST_ITEMS = 20
_NEIGHBOR_COUNT = 10
_DRAWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Accuracy on one label set; a value for each item, so that two embeddings can be compared item by item."""

    item_ids: tuple[str, ...]
    """The items that were asked about."""
    knn_N: F64Array
    """1 where the 10 nearest labelled items, voting by 1 / rank, give the item's label, else 0."""
    few_shot_N: F64Array
    """Share of draws of 5 labels a class whose nearest class mean is the item's; empty with too few labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Change of an accuracy between two embeddings of the same items."""

    before: float
    """Accuracy of the first."""
    now: float
    """Accuracy of the second."""
    deviation: float
    """Standard error of the paired difference."""


def choose_items(labels: Mapping[str, str], *snapshots: Snapshot, seed: int = 0) -> dict[str, str]:
    """Returns items with their labels to measure on: those of every snapshot, of classes with 2 items or more.

    Args:
        labels: label of each item of a set.
        snapshots: what is compared.
        seed: seed of the choice, where there are more than 4,000.

    Returns:
        Up to 4,000 items in a fixed order; empty where there are fewer than 20, or one class.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    names = sorted(labels)
    chosen: dict[str, str] = {}
    for place in order.tolist():
        if len(chosen) == _MOST_ITEMS:
            break
        if all(snapshot.items.find(names[place]) is not None for snapshot in snapshots):
            chosen[names[place]] = labels[names[place]]
    counts = Counter(chosen.values())
    kept = {item_id: label for item_id, label in sorted(chosen.items()) if counts[label] > 1}
    return kept if len(kept) >= _LEAST_ITEMS and len(set(kept.values())) > 1 else {}


def measure_accuracy(snapshot: Snapshot, labels: Mapping[str, str], *, seed: int = 0) -> Accuracy:
    """Measures a snapshot's embeddings on labelled items.

    Args:
        snapshot: whose embeddings; it holds every item.
        labels: items with their labels, from ``choose_items``.
        seed: seed of the draws.
    """
    rows = np.array([snapshot.items.row(item_id) for item_id in labels], dtype=np.int64)
    x_ND = snapshot.vectors_of(rows)
    _, y_N = np.unique(np.array(list(labels.values()), dtype=np.str_), return_inverse=True)
    y_N = y_N.astype(np.int64)
    return Accuracy(
        item_ids=tuple(labels),
        knn_N=_knn(x_ND, y_N, metric=snapshot.metric),
        few_shot_N=_few_shot(x_ND, y_N, metric=snapshot.metric, seed=seed),
    )


def compare(before_N: F64Array, now_N: F64Array) -> Drop:
    """Compares two measurements of the same items.

    Args:
        before_N: value of each item with the first embeddings, at least 1.
        now_N: the same with the second.
    """
    change_N = now_N - before_N
    deviation = float(change_N.std() / np.sqrt(len(change_N)))
    return Drop(before=float(before_N.mean()), now=float(now_N.mean()), deviation=deviation)


def _knn(x_ND: F32Array, y_N: I64Array, *, metric: Metric) -> F64Array:
    rows_NK, _ = exact_search(x_ND, x_ND, metric=metric, neighbor_count=_NEIGHBOR_COUNT + 1)
    other_NK = rows_NK != np.arange(len(x_ND))[:, None]
    weights_NK = other_NK / np.maximum(other_NK.cumsum(axis=1), 1)
    votes_NC = np.zeros((len(x_ND), int(y_N.max()) + 1))
    np.add.at(votes_NC, (np.arange(len(x_ND))[:, None], y_N[rows_NK]), weights_NK)
    correct_N: F64Array = (votes_NC.argmax(axis=1) == y_N).astype(np.float64)
    return correct_N


def _few_shot(x_ND: F32Array, y_N: I64Array, *, metric: Metric, seed: int) -> F64Array:
    counts_C = np.bincount(y_N)
    if counts_C.min() <= SHOTS:
        return np.zeros(0)
    rng = np.random.default_rng(seed)
    right_N, asked_N = np.zeros(len(x_ND)), np.zeros(len(x_ND))
    for _ in range(_DRAWS):
        chosen = np.concatenate([rng.permutation(np.flatnonzero(y_N == c))[:SHOTS] for c in range(len(counts_C))])
        asked: npt.NDArray[np.bool_] = np.ones(len(x_ND), np.bool_)
        asked[chosen] = False
        means_CD = x_ND[chosen].reshape(len(counts_C), SHOTS, -1).mean(axis=1, dtype=np.float32)
        if metric is not Metric.L2:
            means_CD /= np.maximum(np.linalg.norm(means_CD, axis=1, keepdims=True), 1e-12)
        nearest_N1, _ = exact_search(x_ND[asked], means_CD, metric=metric, neighbor_count=1)
        right_N[asked] += nearest_N1[:, 0] == y_N[asked]
        asked_N += asked
    kept = asked_N > 0
    shares_N: F64Array = right_N[kept] / asked_N[kept]
    return shares_N
