"""Measures how many rows a filtered query must see: the nearest lists are walked until so many were scored."""

from collections.abc import Sequence

import numpy as np

from index.coarse import Coarse
from index.selection import FILTER_RECALL, OVERFETCH_SHARE, Selection
from vicinal.types import F32Array, Metric

_LADDER = (350, 500, 700, 1_000, 1_400, 2_000, 2_800, 4_000, 5_600, 8_000, 11_000, 16_000, 22_000, 32_000)
_SHARES = (OVERFETCH_SHARE, 0.3, 0.1, 0.02)
_NEIGHBOR_COUNT = 10


def tune_candidates(
    x_QD: F32Array, vectors_ND: F32Array, *, metric: Metric, coarse: Coarse, seed: int
) -> list[tuple[float, int]]:
    """Measures the fewest rows that give recall 0.995 on random filters of several widths.

    Args:
        x_QD: queries, of unit length under cosine.
        vectors_ND: embeddings.
        metric: how closeness is computed.
        coarse: lists of the rows.
        seed: seed of the random filters.

    Returns:
        Share of the items that match, and rows that a query must see, widest first.
    """
    rng = np.random.default_rng(seed)
    needed = []
    for share in _SHARES:
        mask_N = rng.random(len(vectors_ND)) < share
        selection = Selection(mask_N, vectors_ND=vectors_ND, metric=metric, coarse=coarse)
        needed.append((share, _fewest(selection, x_QD)))
    return needed


def candidates_for(needed: Sequence[tuple[float, int]], share: float) -> int:
    """Returns how many rows a query must see where that share of the items matches; 0 where nothing was measured.

    Args:
        needed: what ``tune_candidates`` measured.
        share: share of the items that match.
    """
    above = [count for known, count in needed if known >= share]
    below = [count for known, count in needed if known < share]
    return max([*above[-1:], *below[:1]], default=0)


def _fewest(selection: Selection, x_QD: F32Array) -> int:
    everything = 2 * selection.count
    truth = selection.search(x_QD, neighbor_count=_NEIGHBOR_COUNT, candidate_count=everything)
    for count in _LADDER:
        if selection.is_gathered(count):
            return count
        found = selection.search(x_QD, neighbor_count=_NEIGHBOR_COUNT, candidate_count=count)
        if (found.scores_QK >= truth.scores_QK[:, -1:]).mean() >= FILTER_RECALL:
            return count
    return everything
