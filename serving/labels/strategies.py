"""What to label next: strategies over a pool of candidates.

All work on centred embeddings of unit length and return positions in the pool, most useful first.
"""

import numpy as np

from serving.fewshot.space import class_sums, unit
from vicinal.types import F32Array, I64Array

TYPICAL_NEIGHBORS = 20
_MAX_CLUSTERS = 1000
_ITERATIONS = 12
_SHORTLIST = 8


def random(x_ND: F32Array, *, count: int, seed: int) -> I64Array:
    """Draws at random, the baseline.

    Args:
        x_ND: candidates, float32 (N, D).
        count: wanted; cut to N.
        seed: of the draw.
    """
    return np.random.default_rng(seed).permutation(x_ND.shape[0])[:count]


def typical(x_ND: F32Array, labelled_MD: F32Array, *, count: int, seed: int) -> I64Array:
    """Picks the most typical item of each of the largest clusters that hold no label yet.

    TypiClust (Hacohen, Dekel and Weinshall, arXiv:2202.02794): as many clusters as there are labels
    and wanted items; typicality is the inverse mean distance to the 20 nearest of the cluster.
    Differs: at most 1,000 clusters; distances are of unit vectors.

    Args:
        x_ND: candidates, float32 (N, D).
        labelled_MD: labelled items, float32 (M, D); M may be 0.
        count: wanted; cut to N.
        seed: of the clustering.
    """
    count = min(count, x_ND.shape[0])
    cluster_count = min(labelled_MD.shape[0] + count, _MAX_CLUSTERS, x_ND.shape[0])
    both = np.concatenate([x_ND, labelled_MD])
    cluster_B = k_means(both, count=cluster_count, seed=seed)
    covered_C = np.bincount(cluster_B[x_ND.shape[0] :], minlength=cluster_count)
    cluster_N = cluster_B[: x_ND.shape[0]]
    picked: list[int] = []
    taken_C = covered_C.copy()
    left_N = np.ones(x_ND.shape[0], dtype=bool)
    while len(picked) < count:
        size_C = np.bincount(cluster_N[left_N], minlength=cluster_count)
        open_C = np.where(size_C > 0, taken_C, np.iinfo(np.int64).max)
        fewest = np.flatnonzero(open_C == open_C.min())
        cluster = int(fewest[size_C[fewest].argmax()])
        members = np.flatnonzero((cluster_N == cluster) & left_N)
        choice = int(members[_typicality(x_ND[members]).argmax()])
        picked.append(choice)
        left_N[choice] = False
        taken_C[cluster] += 1
    return np.array(picked, dtype=np.int64)


def k_center(x_ND: F32Array, labelled_MD: F32Array, *, count: int) -> I64Array:
    """Picks what is farthest from everything labelled or picked before (greedy k-centre, arXiv:1708.00489).

    Args:
        x_ND: candidates, float32 (N, D).
        labelled_MD: labelled items, float32 (M, D); with none it starts at the item nearest to the mean.
        count: wanted; cut to N.
    """
    count = min(count, x_ND.shape[0])
    picked: list[int] = []
    if labelled_MD.shape[0]:
        nearest_N = (x_ND @ labelled_MD.T).max(axis=1)
    else:
        first = int((x_ND @ x_ND.mean(axis=0)).argmax())
        picked.append(first)
        nearest_N = x_ND @ x_ND[first]
    while len(picked) < count:
        nearest_N[picked] = np.inf
        choice = int(nearest_N.argmin())
        picked.append(choice)
        nearest_N = np.maximum(nearest_N, x_ND @ x_ND[choice])
    return np.array(picked[:count], dtype=np.int64)


def margin(x_ND: F32Array, p_NC: F32Array, *, count: int, seed: int) -> I64Array:
    """Picks items between two classes, spread out: one of each cluster of the least certain.

    Args:
        x_ND: candidates, float32 (N, D).
        p_NC: their probabilities, float32 (N, C), C at least 2.
        count: wanted; cut to N.
        seed: of the clustering.
    """
    count = min(count, x_ND.shape[0])
    top_N2 = np.partition(p_NC, -2, axis=1)[:, -2:]
    gap_N = top_N2[:, 1] - top_N2[:, 0]
    shortlist = np.argsort(gap_N, kind="stable")[: count * _SHORTLIST]
    cluster_S = k_means(x_ND[shortlist], count=count, seed=seed)
    first = {int(cluster): place for place, cluster in reversed(list(enumerate(cluster_S)))}
    chosen = sorted(first.values())
    rest = [place for place in range(shortlist.size) if place not in set(chosen)]
    return np.asarray(shortlist[(chosen + rest)[:count]], dtype=np.int64)


def k_means(x_ND: F32Array, *, count: int, seed: int) -> I64Array:
    """Clusters unit vectors by spherical k-means.

    Args:
        x_ND: float32 (N, D).
        count: clusters, at most N.
        seed: of the first centres, which are items far from each other (k-means++).

    Returns:
        Cluster of each item, int64 (N,).
    """
    rng = np.random.default_rng(seed)
    center_CD = x_ND[_spread(x_ND, count, rng)].copy()
    cluster_N = np.zeros(x_ND.shape[0], np.int64)
    for _ in range(_ITERATIONS):
        cluster_N = _nearest(x_ND, center_CD)
        sum_CD = class_sums(x_ND, cluster_N, class_count=count)
        empty = np.flatnonzero(np.bincount(cluster_N, minlength=count) == 0)
        sum_CD[empty] = x_ND[rng.integers(x_ND.shape[0], size=empty.size)]
        center_CD = unit(sum_CD)
    return cluster_N


def _spread(x_ND: F32Array, count: int, rng: np.random.Generator) -> I64Array:
    chosen = [int(rng.integers(x_ND.shape[0]))]
    gap_N = 1.0 - x_ND @ x_ND[chosen[0]]
    while len(chosen) < count:
        weight_N = np.maximum(gap_N, 1e-9).astype(np.float64)
        chosen.append(int(rng.choice(x_ND.shape[0], p=weight_N / weight_N.sum())))
        gap_N = np.minimum(gap_N, 1.0 - x_ND @ x_ND[chosen[-1]])
    return np.array(chosen, dtype=np.int64)


def _nearest(x_ND: F32Array, center_CD: F32Array) -> I64Array:
    step = max(1, (1 << 24) // max(center_CD.shape[0], 1))
    parts = [(x_ND[i : i + step] @ center_CD.T).argmax(axis=1) for i in range(0, x_ND.shape[0], step)]
    return np.concatenate(parts).astype(np.int64)


def _typicality(x_ND: F32Array) -> F32Array:
    if x_ND.shape[0] == 1:
        return np.ones(1, np.float32)
    some_ND = x_ND if x_ND.shape[0] <= 2000 else x_ND[:: -(-x_ND.shape[0] // 2000)]
    count = min(TYPICAL_NEIGHBORS, some_ND.shape[0] - 1)
    sim_NN = x_ND @ some_ND.T
    top_NK = -np.partition(-sim_NN, count, axis=1)[:, : count + 1]
    return np.asarray(1.0 / np.maximum(np.sqrt(np.maximum(2.0 - 2.0 * top_NK, 0)).mean(axis=1), 1e-6), np.float32)
