"""Search with options: counts, effort or recall, thresholds, exclusions, filters, groups, pages.

What is excluded leaves room for others: more neighbours are fetched until every query has as many
as it asked for, or there are no more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from index.filter_tuning import candidates_for
from index.filters import Columns, Filter
from index.live import LiveSelection, LiveSnapshot
from index.selection import FILTER_RECALL, OVERFETCH_SHARE, Selection
from index.snapshot import Snapshot
from index.unwanted import Grouping, Page, Unwanted
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
    filter: Filter | None = None
    """Only items that match. Default: all."""
    excluded_item_ids: Sequence[str] = ()
    """Items never to return; unknown ids are ignored."""
    exclude_duplicates: bool = False
    """Return one item, the best, of each set with identical content."""
    grouping: Grouping | None = None
    """Group by a column and return at most so many of each group."""
    page: Page | None = None
    """Continue behind the last neighbour of the page before; for one query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How a search was answered."""

    strategy: str
    """``index``, ``exact``, ``gather`` (few items match the filter) or ``overfetch`` (nearly all do)."""
    effort: int
    """Effort used, 0 where the strategy has none."""
    expected_recall: float
    """Recall measured for that effort when the snapshot was built, in (0, 1]; 0 when not measured."""


def search(
    snapshot: Snapshot | LiveSnapshot,
    x_QD: F32Array,
    options: SearchOptions,
    *,
    exclude_rows: I64Array | None = None,
    columns: Columns | None = None,
) -> tuple[Neighbors, SearchPlan]:
    """Finds the neighbours of queries.

    Args:
        snapshot: where to search; live with the changes that came after it.
        x_QD: query vectors, float32 (Q, D).
        options: how to search.
        exclude_rows: a row for each query never to return, such as the queried item's own, int64 (Q,); -1 for none.
        columns: further columns of N values for filter and grouping, by name, such as ``labels.NAME``.

    Returns:
        The neighbours, best first, and how they were found.

    Raises:
        InvalidArgumentError: an option is out of range.
        NotFoundError: a filter or grouping names a column that is not there.
        DimensionMismatchError, InvalidVectorError: see ``Snapshot.check_queries``.
    """
    x_QD = snapshot.check_queries(x_QD)
    effort = resolve_effort(snapshot, options)
    first = options.neighbor_count + (options.page.offset if options.page else 0)
    selection = None if options.filter is None else snapshot.select(options.filter, columns=columns)
    plan = _plan(snapshot, selection, effort=effort, count=first)
    if selection is None and exclude_rows is None and _is_plain(options):
        return snapshot.search_checked(x_QD, neighbor_count=options.neighbor_count, effort=effort), plan
    own_Q = np.full(len(x_QD), -1, np.int64) if exclude_rows is None else np.asarray(exclude_rows, np.int64)
    unwanted = Unwanted(
        snapshot.items,
        own_Q=own_Q,
        excluded_item_ids=options.excluded_item_ids,
        min_score=options.min_score,
        page=options.page,
    )
    if options.exclude_duplicates:
        unwanted.limit_groups(snapshot.content_numbers, 1)
    if options.grouping is not None:
        unwanted.group(options.grouping, columns or {})
    if plan.strategy == "overfetch":
        assert selection is not None, "only a filter is over-fetched"
        unwanted.require(selection.mask_N)
    total = snapshot.count if selection is None or plan.strategy == "overfetch" else selection.count

    def fetch(chosen_q: I64Array, count: int) -> Neighbors:
        if selection is None or plan.strategy == "overfetch":
            return snapshot.search_checked(x_QD[chosen_q], neighbor_count=count, effort=effort)
        needed = 2 * total if effort == 0 else candidates_for(snapshot.filter_candidates, selection.share)
        return selection.search(x_QD[chosen_q], neighbor_count=count, candidate_count=needed)

    limit = min(options.neighbor_count, total if selection is None else selection.count)
    return fill(fetch, unwanted.keep, query_count=len(x_QD), limit=limit, first=first, total=total), plan


def resolve_effort(snapshot: Snapshot | LiveSnapshot, options: SearchOptions) -> int:
    """Returns the effort that options ask for, 0 for exact search.

    Raises:
        InvalidArgumentError: effort and target_recall together, or an option out of range.
    """
    if options.neighbor_count < 1:
        raise InvalidArgumentError(
            f"neighbor_count is {options.neighbor_count}, wanted at least 1", field="options.neighbor_count"
        )
    if options.effort is not None and options.target_recall is not None:
        raise InvalidArgumentError("effort and target_recall exclude each other; give one", field="options.effort")
    if options.target_recall is not None:
        return snapshot.effort_for(options.target_recall)
    if options.effort is None:
        return snapshot.default_effort
    if options.effort < 1:
        raise InvalidArgumentError(f"effort is {options.effort}, wanted at least 1", field="options.effort")
    return options.effort


def _is_plain(options: SearchOptions) -> bool:
    dropping = (options.min_score, options.grouping, options.page)
    return dropping == (None, None, None) and not options.excluded_item_ids and not options.exclude_duplicates


def _plan(
    snapshot: Snapshot | LiveSnapshot, selection: Selection | LiveSelection | None, *, effort: int, count: int
) -> SearchPlan:
    if selection is not None and (selection.share < OVERFETCH_SHARE or snapshot.is_exact(count, effort)):
        if effort == 0 or selection.is_gathered(
            max(candidates_for(snapshot.filter_candidates, selection.share), count)
        ):
            return SearchPlan(strategy="gather", effort=0, expected_recall=1.0)
        return SearchPlan(strategy="index", effort=0, expected_recall=FILTER_RECALL)
    if snapshot.is_exact(count, effort):
        return SearchPlan(strategy="exact", effort=0, expected_recall=1.0)
    strategy = "index" if selection is None else "overfetch"
    return SearchPlan(strategy=strategy, effort=effort, expected_recall=snapshot.expected_recall(effort))


def fill(
    fetch: Callable[[I64Array, int], Neighbors],
    keep: Callable[[I64Array, Neighbors], tuple[BoolArray, BoolArray]],
    *,
    query_count: int,
    limit: int,
    first: int,
    total: int,
) -> Neighbors:
    """Fetches neighbours, drops the unwanted, and fetches more for the queries that are short.

    Args:
        fetch: from the places of queries and a count to their neighbours.
        keep: from the places of queries and their neighbours to which of them are kept, bool (Q, K), and
            to which queries further neighbours cannot help, bool (Q,).
        query_count: Q.
        limit: neighbours wanted of each query.
        first: neighbours to fetch at first.
        total: neighbours there can be at most.
    """
    rows_QK = np.zeros((query_count, limit), np.int64)
    scores_QK = np.full((query_count, limit), -np.inf, np.float32)
    counts_Q = np.zeros(query_count, np.int64)
    pending_q = np.arange(query_count if limit else 0)
    count = min(first, total)
    while len(pending_q):
        found = fetch(pending_q, count)
        kept_QK, ended_Q = keep(pending_q, found)
        kept_QK[kept_QK.cumsum(axis=1) > limit] = False
        have_Q = kept_QK.sum(axis=1)
        done_Q = ended_Q | (have_Q >= limit) | (count >= total)
        places_Q, columns_K = np.nonzero(kept_QK & done_Q[:, None])
        targets_K = (kept_QK.cumsum(axis=1) - 1)[places_Q, columns_K]
        rows_QK[pending_q[places_Q], targets_K] = found.rows_QK[places_Q, columns_K]
        scores_QK[pending_q[places_Q], targets_K] = found.scores_QK[places_Q, columns_K]
        counts_Q[pending_q[done_Q]] = have_Q[done_Q]
        pending_q = pending_q[~done_Q]
        count = min(count * _GROWTH, total)
    return Neighbors(rows_QK=rows_QK, scores_QK=scores_QK, counts_Q=counts_Q)
