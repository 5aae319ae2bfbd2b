"""Dataset health from the neighbors of every item: duplicates, outliers, likely label errors, leaks.

Neighbors come from the snapshot's own index; closeness is the cosine of centred embeddings whatever
the metric, so that one threshold means the same in every snapshot.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from index.snapshot import Snapshot
from serving.fewshot.space import centered, one_hot
from vicinal.types import F32Array, I64Array

NEIGHBOR_COUNT = 10
NEAR_DUPLICATE = 0.98
"""Centred cosine from which on two items show the same."""
OUTLIER_DEVIATIONS = 3.5
"""Robust standard deviations by which an outlier is farther from its neighbors than most."""
SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})
_VOTE_TEMPERATURE = 0.07
_LABELLED_NEIGHBORS = 20
_CHUNK_ROWS = 4096
_CENTER_ROWS = 20_000
_LABELLED_CHUNK = 1 << 25
_LABELLED_LIMIT = 20_000
"""Labelled items up to which all pairs of them are compared."""
_WIDEST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A label that the neighbors of the item speak against."""

    item_id: str
    """The item."""
    label: str
    """What it says."""
    likely: str
    """What its neighbors say."""
    probability: float
    """Share of their votes, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Items of different splits that show the same."""

    item_id: str
    """An item."""
    split: str
    """Its split."""
    other_item_id: str
    """Another."""
    other_split: str
    """Its split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What was found; lists are worst first."""

    item_count: int
    """Items looked at."""
    exact_groups: list[list[str]] = field(default_factory=list)
    """Items with identical bytes."""
    near_groups: list[list[str]] = field(default_factory=list)
    """Items that show the same, but are not identical."""
    outliers: list[tuple[str, float]] = field(default_factory=list)
    """Items far from everything, with their deviations."""
    suspects: list[Suspect] = field(default_factory=list)
    """Likely label errors."""
    leaks: list[Leak] = field(default_factory=list)
    """Duplicates, exact or near, across splits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllNeighbors:
    """The nearest other items of every item."""

    rows_NK: I64Array
    """Rows; -1 where there are fewer."""
    cosine_NK: F32Array
    """Centred cosines; -1 where there are fewer."""


def check(
    snapshot: Snapshot,
    *,
    labels: Mapping[str, str],
    split_column: str = "",
    near_duplicate: float = NEAR_DUPLICATE,
    progress: Callable[[int], None] = lambda _: None,
) -> Health:
    """Looks at every item of a snapshot.

    Args:
        snapshot: the items.
        labels: label of each labelled item, by item id; may be empty.
        split_column: metadata column that names the split; default, ``split`` where there is one,
            else a first folder called train, test, validation or alike.
        near_duplicate: centred cosine from which on two items show the same, in (0, 1].
        progress: is told how many items have been looked at.

    Raises:
        InvalidArgumentError: no such column.
    """
    center_D = _center(snapshot)
    near = all_neighbors(snapshot, center_D, progress=progress)
    exact = _exact_groups(snapshot)
    pairs_P2 = _near_pairs(near, near_duplicate)
    group_of = {row: number for number, group in enumerate(exact) for row in group}
    loose = [pair for pair in pairs_P2.tolist() if group_of.get(pair[0], -1) != group_of.get(pair[1], -2)]
    names = snapshot.items.item_ids
    return Health(
        item_count=snapshot.count,
        exact_groups=[names(group) for group in exact],
        near_groups=[names(group) for group in _joined(loose)],
        outliers=[(names([row])[0], score) for row, score in _outliers(near)],
        suspects=_suspects(snapshot, near, center_D, labels),
        leaks=_leaks(snapshot, [*_pairs_of(exact), *loose], split_column),
    )


def all_neighbors(
    snapshot: Snapshot, center_D: F32Array, *, progress: Callable[[int], None] = lambda _: None
) -> AllNeighbors:
    """Finds the nearest other items of every item, by the index."""
    count = min(NEIGHBOR_COUNT + 1, snapshot.count)
    rows_NK = np.full((snapshot.count, max(count - 1, 1)), -1, np.int64)
    cosine_NK = np.full(rows_NK.shape, -1.0, np.float32)
    for start in range(0, snapshot.count, _CHUNK_ROWS):
        rows_P = np.arange(start, min(start + _CHUNK_ROWS, snapshot.count))
        if count > 1:
            rows_NK[rows_P], cosine_NK[rows_P] = _others(snapshot, center_D, rows_P, count=count - 1)
        progress(min(start + _CHUNK_ROWS, snapshot.count))
    return AllNeighbors(rows_NK=rows_NK, cosine_NK=cosine_NK)


def _others(snapshot: Snapshot, center_D: F32Array, rows_P: I64Array, *, count: int) -> tuple[I64Array, F32Array]:
    """Returns the nearest other rows by the index, int64 (P, count), and their centred cosines, float32."""
    x_PD = np.asarray(snapshot.vectors_ND[rows_P])
    found_PK = snapshot.search(x_PD, neighbor_count=count + 1).rows_QK
    # The item itself is nearly always among them; where it is not, the last is left out instead.
    keys_PK = np.where(found_PK == rows_P[:, None], count + 1, np.arange(count + 1))
    others_PK = np.take_along_axis(found_PK, np.argsort(keys_PK, axis=1), axis=1)[:, :count]
    y_PKD = centered(np.asarray(snapshot.vectors_ND[others_PK.ravel()]), center_D).reshape(*others_PK.shape, -1)
    return others_PK, np.einsum("pd,pkd->pk", centered(x_PD, center_D), y_PKD)


def _center(snapshot: Snapshot) -> F32Array:
    step = max(1, -(-snapshot.count // _CENTER_ROWS))
    return np.asarray(snapshot.vectors_ND[::step].mean(axis=0, dtype=np.float64), dtype=np.float32)


def _exact_groups(snapshot: Snapshot) -> list[list[int]]:
    codes_N = snapshot.items.column("digest").combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(codes_N, kind="stable")
    ends = np.flatnonzero(codes_N[order][1:] != codes_N[order][:-1]) + 1
    groups = [sorted(group.tolist()) for group in np.split(order, ends) if group.size > 1]
    return sorted(groups, key=lambda group: (-len(group), group))


def _near_pairs(near: AllNeighbors, least: float) -> I64Array:
    row_P, place_P = np.nonzero(near.cosine_NK >= least)
    other_P = near.rows_NK[row_P, place_P]
    pairs_P2 = np.stack([np.minimum(row_P, other_P), np.maximum(row_P, other_P)], axis=1)
    return np.unique(pairs_P2, axis=0)


def _joined(pairs: list[list[int]]) -> list[list[int]]:
    leader: dict[int, int] = {}

    def find(row: int) -> int:
        while leader.setdefault(row, row) != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    for one, other in pairs:
        leader[find(one)] = find(other)
    groups: dict[int, list[int]] = {}
    for row in sorted(leader):
        groups.setdefault(find(row), []).append(row)
    return sorted(groups.values(), key=lambda group: (-len(group), group))


def _pairs_of(groups: list[list[int]]) -> list[list[int]]:
    return [[group[0], other] for group in groups for other in group[1:]]


def _outliers(near: AllNeighbors) -> list[tuple[int, float]]:
    gap_N = 1.0 - near.cosine_NK.mean(axis=1)
    middle = float(np.median(gap_N))
    spread = float(np.median(np.abs(gap_N - middle))) * 1.4826
    deviation_N = (gap_N - middle) / max(spread, 1e-6)
    rows = np.flatnonzero(deviation_N > OUTLIER_DEVIATIONS)
    return [(int(row), float(deviation_N[row])) for row in rows[np.argsort(-deviation_N[rows], kind="stable")]]


def _suspects(snapshot: Snapshot, near: AllNeighbors, center_D: F32Array, labels: Mapping[str, str]) -> list[Suspect]:
    """Finds labels that confident neighbors speak against (confident learning, arXiv:1911.00068).

    A label is suspect where another class has at least the votes that items of that class have for
    themselves on average.
    """
    found = [(snapshot.items.find(item_id), label) for item_id, label in sorted(labels.items())]
    known = [(row, label) for row, label in found if row is not None]
    classes = sorted({label for _, label in known})
    if len(classes) < 2:
        return []
    rows_M = np.array([row for row, _ in known])
    y_M = np.array([classes.index(label) for _, label in known])
    p_MC = _votes(snapshot, near, center_D, rows_M, one_hot(y_M, class_count=len(classes)))
    own_M = p_MC[np.arange(y_M.size), y_M]
    usual_C = np.array([own_M[y_M == number].mean() for number in range(len(classes))])
    best_M = p_MC.argmax(axis=1)
    best_p_M = p_MC[np.arange(y_M.size), best_M]
    bad = np.flatnonzero((best_M != y_M) & (best_p_M >= usual_C[best_M]) & (best_p_M > 0.5))
    bad = bad[np.argsort(own_M[bad] - best_p_M[bad], kind="stable")]
    ids = snapshot.items.item_ids(rows_M[bad])
    return [
        Suspect(item_id=item_id, label=classes[y_M[m]], likely=classes[best_M[m]], probability=float(best_p_M[m]))
        for item_id, m in zip(ids, bad, strict=True)
    ]


def _votes(snapshot: Snapshot, near: AllNeighbors, center_D: F32Array, rows_M: I64Array, t_MC: F32Array) -> F32Array:
    if rows_M.size > min(_LABELLED_LIMIT, snapshot.count // 2):
        vote_MC = _votes_by_index(snapshot, near, center_D, rows_M, t_MC)
    else:
        z_MD = centered(np.asarray(snapshot.vectors_ND[rows_M]), center_D)
        count = min(_LABELLED_NEIGHBORS, rows_M.size - 1)
        parts, step = [], max(1, _LABELLED_CHUNK // rows_M.size)
        for start in range(0, rows_M.size, step):
            sim_PM = z_MD[start : start + step] @ z_MD.T
            own = np.arange(start, start + sim_PM.shape[0])
            sim_PM[own - start, own] = -np.inf
            near_PK = np.argpartition(-sim_PM, count - 1, axis=1)[:, :count]
            weight_PK = np.exp((np.take_along_axis(sim_PM, near_PK, axis=1) - 1.0) / _VOTE_TEMPERATURE)
            parts.append(np.einsum("pk,pkc->pc", weight_PK, t_MC[near_PK]))
        vote_MC = np.concatenate(parts)
    return np.asarray(vote_MC / np.maximum(vote_MC.sum(axis=1, keepdims=True), 1e-30), dtype=np.float32)


def _votes_by_index(
    snapshot: Snapshot, near: AllNeighbors, center_D: F32Array, rows_M: I64Array, t_MC: F32Array
) -> F32Array:
    """Has the neighbors vote that the index finds: as many that some 20 of them are labelled, but 1,000 at most."""
    place_N = np.full(snapshot.count + 1, rows_M.size)  # the last for a row of -1
    place_N[rows_M] = np.arange(rows_M.size)
    padded_MC = np.concatenate([t_MC, np.zeros((1, t_MC.shape[1]), np.float32)])
    count = min(-(-_LABELLED_NEIGHBORS * snapshot.count // rows_M.size), _WIDEST)
    step = max(1, _LABELLED_CHUNK // (count * max(t_MC.shape[1], snapshot.dimension)))
    parts = []
    for start in range(0, rows_M.size, step):
        rows_P = rows_M[start : start + step]
        rows_PK, cosine_PK = near.rows_NK[rows_P], near.cosine_NK[rows_P]
        if rows_M.size <= snapshot.count // 2:
            rows_PK, cosine_PK = _others(snapshot, center_D, rows_P, count=count)
        weight_PK = np.exp((cosine_PK - 1.0) / _VOTE_TEMPERATURE)
        parts.append(np.einsum("pk,pkc->pc", weight_PK, padded_MC[place_N[rows_PK]]))
    return np.concatenate(parts)


def _leaks(snapshot: Snapshot, pairs: list[list[int]], split_column: str) -> list[Leak]:
    if not pairs:
        return []
    column = split_column or ("split" if "split" in snapshot.items.columns else "")
    values = snapshot.items.column(column) if column else None

    def split_of(row: int) -> str:
        if values is not None:
            return str(values[row].as_py() or "")
        top = snapshot.items.item_ids([row])[0].partition("/")[0]
        return top if top.lower() in SPLITS else ""

    found = []
    for one, other in pairs:
        here, there = split_of(one), split_of(other)
        if here and there and here != there:
            first, second = snapshot.items.item_ids([one, other])
            found.append(Leak(item_id=first, split=here, other_item_id=second, other_split=there))
    return found
