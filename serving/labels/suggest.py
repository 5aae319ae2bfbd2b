"""Which items to label next.

Measured with an ImageNet encoder, balanced accuracy after 20 labels against a random choice: typical
items +14 points on clothing photographs and +8 on CIFAR-10; after 100 labels +6 and +3, and ahead of
k-centre and margin. So `auto` asks for typical items first, and for items between two classes once
every class has many labels.
"""

from dataclasses import dataclass

import numpy as np

from serving.fewshot.model import FewshotModel
from serving.fewshot.space import centered
from serving.generation import Generation
from serving.labels import strategies
from vicinal.errors import FailedPreconditionError, InvalidArgumentError, did_you_mean
from vicinal.types import F32Array, I64Array

STRATEGIES = ("auto", "typical", "k_center", "margin", "random")
COUNT_LIMIT = 1000
POOL_LIMIT = 20_000
TYPICAL_LABELS_A_CLASS = 20
_NEIGHBORS_OF_LABELLED = 50
_LABELLED_LIMIT = 2_000
_SAME = 0.9995
"""Cosine of centred embeddings above which two items show the same."""
_NOTHING_LEFT = (
    "nothing is left to suggest: every item is labelled, shows the same as a labelled one, or is filtered out"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Items worth labelling."""

    rows: I64Array
    """Rows of the snapshot, most useful first."""
    strategy: str
    """What chose them."""
    explanation: str
    """Why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is labelled already."""

    rows: I64Array
    """Rows of labelled items in the snapshot."""
    class_count: int
    """Classes with labels."""
    model: FewshotModel | None
    """Fitted to them; None with fewer than two classes."""
    center_D: F32Array
    """Mean embedding of the snapshot."""


def choose_strategy(name: str, known: Known) -> str:
    """Resolves ``auto``.

    Raises:
        InvalidArgumentError: no such strategy.
        FailedPreconditionError: ``margin`` with fewer than two classes.
    """
    wanted = (name or "auto").replace("-", "_")
    if wanted not in STRATEGIES:
        raise InvalidArgumentError(f"unknown strategy {name!r}{did_you_mean(wanted, STRATEGIES)}", field="strategy")
    if wanted == "auto":
        many = known.rows.size >= TYPICAL_LABELS_A_CLASS * max(known.class_count, 2)
        return "margin" if many and known.model is not None else "typical"
    if wanted == "margin" and known.model is None:
        raise FailedPreconditionError("margin needs labels of two classes; label some, or take typical")
    return wanted


def suggest(
    generation: Generation, known: Known, *, allowed: I64Array, count: int, strategy: str, seed: int
) -> Suggestion:
    """Chooses items to label; none twice, no duplicates of each other or of labelled ones.

    Args:
        generation: whose items are candidates.
        known: what is labelled.
        allowed: rows that may be chosen, int64, labelled ones left out.
        count: wanted, 1 to 1,000.
        strategy: from ``choose_strategy``.
        seed: of everything random.

    Returns:
        At most as many as wanted; none where no candidate is left.
    """
    pool = _pool(generation, known, allowed, seed)
    labelled_MD = _vectors(generation, known, known.rows[:_LABELLED_LIMIT])
    x_ND = _vectors(generation, known, pool)
    pool, x_ND = _without_copies(generation, pool, x_ND, labelled_MD, known.rows)
    if not pool.size:
        return Suggestion(rows=pool, strategy=strategy, explanation=_NOTHING_LEFT)
    wanted, count = count, count + max(4, count // 4)
    if strategy == "typical":
        picked = strategies.typical(x_ND, labelled_MD, count=count, seed=seed)
    elif strategy == "k_center":
        picked = strategies.k_center(x_ND, labelled_MD, count=count)
    elif strategy == "margin":
        assert known.model is not None
        p_NC = known.model.head.predict(x_ND)
        picked = strategies.margin(x_ND, p_NC, count=count, seed=seed)
    else:
        picked = strategies.random(x_ND, count=count, seed=seed)
    picked = _distinct(x_ND, picked)[:wanted]
    return Suggestion(rows=pool[picked], strategy=strategy, explanation=_explain(strategy, known, pool.size))


def _pool(generation: Generation, known: Known, allowed: I64Array, seed: int) -> I64Array:
    if allowed.size <= POOL_LIMIT:
        return allowed
    sample = np.sort(np.random.default_rng(seed).choice(allowed, POOL_LIMIT // 2, replace=False))
    if not known.rows.size:
        return sample
    some = known.rows[-POOL_LIMIT // (2 * _NEIGHBORS_OF_LABELLED) :]
    x_QD = generation.snapshot.vectors_of(some)
    near = generation.snapshot.search(x_QD, neighbor_count=_NEIGHBORS_OF_LABELLED)
    return np.intersect1d(np.union1d(sample, near.rows_QK), allowed)


def _vectors(generation: Generation, known: Known, rows: I64Array) -> F32Array:
    return centered(generation.snapshot.vectors_of(rows), known.center_D)


def _without_copies(
    generation: Generation, pool: I64Array, x_ND: F32Array, labelled_MD: F32Array, labelled: I64Array
) -> tuple[I64Array, F32Array]:
    digests = generation.snapshot.items.column("digest")
    seen = {digests[int(row)].as_py() for row in labelled}
    keep: list[int] = []
    near_N = (x_ND @ labelled_MD.T).max(axis=1, initial=-1.0)
    for place, row in enumerate(pool.tolist()):
        digest = digests[row].as_py()
        if digest not in seen and near_N[place] < _SAME:
            seen.add(digest)
            keep.append(place)
    return pool[keep], x_ND[keep]


def _distinct(x_ND: F32Array, picked: I64Array) -> I64Array:
    keep: list[int] = []
    for place in picked.tolist():
        if not keep or float((x_ND[keep] @ x_ND[place]).max()) < _SAME:
            keep.append(place)
    return np.array(keep, dtype=np.int64)


def _explain(strategy: str, known: Known, pool_count: int) -> str:
    labelled = f"{known.rows.size} items of {known.class_count} classes are labelled"
    why = {
        "typical": "the most typical item of each of the largest groups that have no label yet",
        "k_center": "items farthest from everything that is labelled",
        "margin": "items that lie between two classes, spread out",
        "random": "items drawn at random",
    }[strategy]
    return f"{labelled}; these are {why}, from {pool_count} candidates"
