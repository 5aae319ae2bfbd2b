"""Encodes neighbors."""

from collections.abc import Sequence

import numpy as np

from index.live_items import LiveItems
from serving.items import encode_item
from vicinal.item_table import ItemTable
from vicinal.types import F32Array, I64Array, Neighbors
from vicinal.v1 import types_pb2


def encode_neighbors(
    items: ItemTable | LiveItems, rows_K: I64Array, scores_K: F32Array, *, full: bool = False
) -> types_pb2.Neighbors:
    """Encodes the neighbors of one query.

    Args:
        items: the items of the snapshot.
        rows_K: rows of the neighbors, int64, all valid.
        scores_K: their scores, float32.
        full: give the items themselves too.
    """
    rows = rows_K.tolist()
    return types_pb2.Neighbors(
        item_ids=items.item_ids(rows),
        scores=scores_K.tolist(),
        items=[encode_item(items.item(row)) for row in rows] if full else (),
    )


def encode_all(items: ItemTable | LiveItems, found: Neighbors, *, full: bool = False) -> Sequence[types_pb2.Neighbors]:
    """Encodes the neighbors of Q queries.

    Args:
        items: the items of the snapshot.
        found: what was found.
        full: give the items themselves too.
    """
    return [
        encode_neighbors(items, rows_K[:count], np.asarray(scores_K[:count]), full=full)
        for rows_K, scores_K, count in zip(found.rows_QK, found.scores_QK, found.counts_Q.tolist(), strict=True)
    ]
