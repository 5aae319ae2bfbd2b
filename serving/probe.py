"""The recall probe: a few pinned queries are answered by the index and exactly, and compared.

So the live recall of what is served is a metric, not a promise made when the index was built.
"""

import asyncio
import logging
import time

import numpy as np

from index.snapshot import Snapshot
from serving.context import ServingContext
from serving.place import Place
from vicinal.errors import NoActiveSnapshotError

logger = logging.getLogger(__name__)
_NEIGHBOR_COUNT = 10
_NOISE = 0.1
_TIE = 1e-5


def probe_recall(snapshot: Snapshot, *, query_count: int, seed: int = 0) -> float:
    """Returns the recall of the default search against exact search, on items moved a little.

    A neighbor counts as found when its score is at least that of the last exact one, so that ties
    and rounding cost nothing.

    Args:
        snapshot: what is probed.
        query_count: queries, at least 1.
        seed: chooses them; the same ones are asked again for the same seed.
    """
    rng = np.random.default_rng(seed)
    rows_Q = rng.integers(snapshot.count, size=min(query_count, snapshot.count))
    x_QD = np.array(snapshot.vectors_ND[rows_Q])
    spread = float(np.linalg.norm(x_QD, axis=1).mean()) / np.sqrt(x_QD.shape[1])
    x_QD += rng.standard_normal(x_QD.shape).astype(np.float32) * np.float32(_NOISE * spread)
    count = min(_NEIGHBOR_COUNT, snapshot.count)
    truth = snapshot.exact(x_QD, neighbor_count=count)
    found = snapshot.search(x_QD, neighbor_count=count)
    last_Q = truth.scores_QK[:, count - 1 : count]
    hits_QK = found.scores_QK[:, :count] >= last_Q - _TIE * np.maximum(1, np.abs(last_Q))
    return float(hits_QK.mean())


async def keep_probing(context: ServingContext, place: Place) -> None:
    """Probes what is served until cancelled, and shows the recall on the board.

    Args:
        context: what is served.
        place: where the recall is shown.
    """
    observe = context.config.observe
    while observe.probe_interval_s > 0:
        try:
            generation = context.generations.current()
            recall = await context.run(probe_recall, generation.base, query_count=observe.probe_queries)
        except NoActiveSnapshotError:
            pass
        except Exception:
            logger.exception("the recall probe failed")
        else:
            place.slab["recall"], place.slab["recall_time_s"] = recall, time.time()
        await asyncio.sleep(observe.probe_interval_s)
