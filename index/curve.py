"""The measured trade of a snapshot: for each effort its recall, latency and throughput."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vicinal.types import JsonObject

EXACT_EFFORT = 0
"""The effort that stands for exact search."""
RECALL_NEIGHBOR_COUNT = 10
"""K of the recall in a curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One measured point."""

    effort: int
    """Search effort (efSearch, nprobe); 0 is exact search."""
    recall: float
    """Mean recall of the 10 nearest neighbours against exact search, tie-aware, in [0, 1]."""
    p50_us: float
    """Median latency of one query, microseconds."""
    p99_us: float
    """99th percentile of the latency of one query, microseconds."""
    queries_per_second: float
    """Throughput of a batch of queries on all cores."""


def effort_for(curve: Sequence[CurvePoint], target_recall: float) -> int:
    """Returns the cheapest effort that was measured to reach a recall, or ``EXACT_EFFORT`` where none does.

    Args:
        curve: points, ascending in effort.
        target_recall: recall wanted, in (0, 1]; 1 means exact search.
    """
    if target_recall >= 1:
        return EXACT_EFFORT
    enough = [point.effort for point in curve if point.recall >= target_recall]
    return min(enough, default=EXACT_EFFORT)


def expected_recall(curve: Sequence[CurvePoint], effort: int) -> float:
    """Returns the recall measured at the largest effort that is at most the given; 0 where none was measured."""
    if effort == EXACT_EFFORT:
        return 1.0
    below = [point for point in curve if EXACT_EFFORT < point.effort <= effort]
    return max(below, key=lambda point: point.effort).recall if below else 0.0


def to_json(curve: Iterable[CurvePoint]) -> list[JsonObject]:
    """Returns the curve as JSON values."""
    return [asdict(point) for point in curve]


def from_json(values: Iterable[Any]) -> tuple[CurvePoint, ...]:
    """Reads what ``to_json`` wrote."""
    return tuple(CurvePoint(**value) for value in values)
