"""Search with options: counts, effort or recall, thresholds, exclusions; says how it was answered.

What is excluded leaves room for others: more neighbours are fetched until every query has as many
as it asked for, or there are no more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from index.snapshot import Snapshot
from vicinal.errors import InvalidArgumentError
from vicinal.types import BoolArray, F32Array, I64Array, Neighbors

_GROWTH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How a search is run; the same words as in the API."""

    neighbor_count: int = 10
    """Neighbours wanted, at least 1."""
    effort: int | None = None
    """Search effort, at least 1. Excludes target_recall. Default: the snapshot's own."""
    target_recall: float | None = None
    """Recall wanted, in (0, 1]; 1 is exact search. Excludes effort."""
    min_score: float | None = None
    """Keep only neighbours with at least this score."""
    excluded_item_ids: Sequence[str] = ()
    """Items never to return; unknown ids are ignored."""
    exclude_duplicates: bool = False
    """Return one item, the best, of each set with identical content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How a search was answered."""

    strategy: str
    """``index`` or ``exact``."""
    effort: int
    """Effort used, 0 where the strategy has none."""
    expected_recall: float
    """Recall measured for that effort when the snapshot was built, in (0, 1]; 0 when not measured."""
    bridged: bool = False
    """The queries came from another encoder's space and were mapped into this one."""


def search(
    snapshot: Snapshot, x_QD: F32Array, options: SearchOptions, *, exclude_rows: I64Array | None = None
) -> tuple[Neighbors, SearchPlan]:
    """Finds the neighbours of queries.

    Args:
        snapshot: where to search.
        x_QD: query vectors, float32 (Q, D).
        options: how to search.
        exclude_rows: a row for each query never to return, such as the queried item's own, int64 (Q,); -1 for none.

    Returns:
        The neighbours, best first, and how they were found.

    Raises:
        InvalidArgumentError: an option is out of range.
        DimensionMismatchError, InvalidVectorError: see ``Snapshot.check_queries``.
    """
    effort = resolve_effort(snapshot, options)
    own_Q = np.full(len(x_QD), -1, np.int64) if exclude_rows is None else np.asarray(exclude_rows, np.int64)
    unwanted = _Unwanted(snapshot, options, own_Q)

    def fetch(chosen_q: I64Array, count: int) -> Neighbors:
        return snapshot.search(x_QD[chosen_q], neighbor_count=count, effort=effort)

    neighbors = fill(fetch, unwanted.keep, query_count=len(x_QD), wanted=options.neighbor_count, total=snapshot.count)
    is_exact = snapshot.is_exact(options.neighbor_count, effort)
    plan = SearchPlan(
        strategy="exact" if is_exact else "index",
        effort=0 if is_exact else effort,
        expected_recall=1.0 if is_exact else snapshot.expected_recall(effort),
    )
    return neighbors, plan


def resolve_effort(snapshot: Snapshot, options: SearchOptions) -> int:
    """Returns the effort that options ask for, 0 for exact search.

    Raises:
        InvalidArgumentError: effort and target_recall together, or out of range.
    """
    if options.effort is not None and options.target_recall is not None:
        raise InvalidArgumentError("effort and target_recall exclude each other; give one", field="options.effort")
    if options.target_recall is not None:
        return snapshot.effort_for(options.target_recall)
    if options.effort is None:
        return snapshot.default_effort
    if options.effort < 1:
        raise InvalidArgumentError(f"effort is {options.effort}, wanted at least 1", field="options.effort")
    return options.effort


def fill(
    fetch: Callable[[I64Array, int], Neighbors],
    keep: Callable[[I64Array, Neighbors], tuple[BoolArray, BoolArray]],
    *,
    query_count: int,
    wanted: int,
    total: int,
) -> Neighbors:
    """Fetches neighbours, drops the unwanted, and fetches more for the queries that are short.

    Args:
        fetch: from the places of queries and a count to their neighbours.
        keep: from the places of queries and their neighbours to which of them are kept, bool (Q, K), and
            to which queries further neighbours cannot help, bool (Q,).
        query_count: Q.
        wanted: neighbours wanted of each query.
        total: neighbours there can be at most.
    """
    limit = min(max(wanted, 1), total)
    rows_QK = np.zeros((query_count, limit), np.int64)
    scores_QK = np.full((query_count, limit), -np.inf, np.float32)
    counts_Q = np.zeros(query_count, np.int64)
    pending_q = np.arange(query_count)
    count = wanted
    while len(pending_q):
        found = fetch(pending_q, count)
        kept_QK, ended_Q = keep(pending_q, found)
        kept_QK[kept_QK.cumsum(axis=1) > limit] = False
        have_Q = kept_QK.sum(axis=1)
        done_Q = ended_Q | (have_Q >= limit) | (found.counts_Q < count) | (count >= total)
        places_Q, columns_K = np.nonzero(kept_QK & done_Q[:, None])
        targets_K = (kept_QK.cumsum(axis=1) - 1)[places_Q, columns_K]
        rows_QK[pending_q[places_Q], targets_K] = found.rows_QK[places_Q, columns_K]
        scores_QK[pending_q[places_Q], targets_K] = found.scores_QK[places_Q, columns_K]
        counts_Q[pending_q[done_Q]] = have_Q[done_Q]
        pending_q = pending_q[~done_Q]
        count = min(count * _GROWTH, total)
    return Neighbors(rows_QK=rows_QK, scores_QK=scores_QK, counts_Q=counts_Q)


class _Unwanted:
    """What options exclude from the neighbours of each query."""

    def __init__(self, snapshot: Snapshot, options: SearchOptions, own_Q: I64Array) -> None:
        found = (snapshot.items.find(item_id) for item_id in options.excluded_item_ids)
        self._rows = np.unique(np.array([row for row in found if row is not None], dtype=np.int64))
        self._own_Q = own_Q
        self._has_own = bool((own_Q >= 0).any())
        self._min_score = options.min_score
        self._contents = snapshot.content_numbers if options.exclude_duplicates else None

    def keep(self, chosen_q: I64Array, found: Neighbors) -> tuple[BoolArray, BoolArray]:
        rows_QK = found.rows_QK
        kept_QK: BoolArray = np.arange(rows_QK.shape[1])[None, :] < found.counts_Q[:, None]
        ended_Q = np.zeros(len(rows_QK), np.bool_)
        if self._min_score is not None:
            kept_QK &= found.scores_QK >= self._min_score
            ended_Q = kept_QK.sum(axis=1) < found.counts_Q
        if self._has_own:
            kept_QK &= rows_QK != self._own_Q[chosen_q][:, None]
        if len(self._rows):
            kept_QK &= ~np.isin(rows_QK, self._rows)
        if self._contents is not None:
            limit_per_group(kept_QK, self._contents[rows_QK], 1)
        return kept_QK, ended_Q


def limit_per_group(kept_QK: BoolArray, groups_QK: I64Array, limit: int) -> None:
    """Keeps the first so many of each group in each row.

    Args:
        kept_QK: what is kept; changed in place.
        groups_QK: group of each, int64.
        limit: how many of a group are kept, at least 1.
    """
    for kept_K, groups_K in zip(kept_QK, groups_QK, strict=True):
        places = np.flatnonzero(kept_K)
        order = np.argsort(groups_K[places], kind="stable")
        sorted_groups = groups_K[places][order]
        # Rank within the group: distance to the place where the group starts.
        starts = np.searchsorted(sorted_groups, sorted_groups, side="left")
        kept_K[places[order][np.arange(len(order)) - starts >= limit]] = False
