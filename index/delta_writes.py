"""What is asked of a delta, how several requests become one flush, and the embeddings that grow row by row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from index.delta_records import describe, encode
from vicinal.corpus import MAX_ID_BYTES
from vicinal.errors import DimensionMismatchError, InvalidArgumentError, InvalidVectorError
from vicinal.items import Item, kind_of
from vicinal.types import F32Array, Metric

_LEAST_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One request to upsert items or to delete some; see ``Delta.prepare``."""

    items: Sequence[Item] = ()
    """Items to upsert, ids unique."""
    x_MD: F32Array | None = None
    """Their embeddings, checked."""
    item_ids: Sequence[str] = ()
    """Ids to delete."""
    request_id: str = ""
    """A request that is repeated with the same id has no further effect; empty for none."""


def checked_write(
    items: Sequence[Item], x_MD: F32Array, *, dimension: int, metric: Metric, request_id: str = ""
) -> Write:
    """Returns an upsert; see ``Delta.prepare``.

    Args:
        items: the items, ids unique.
        x_MD: their embeddings, float32, finite.
        dimension: D.
        metric: under cosine vectors are brought to unit length.
        request_id: a request that is repeated with the same id has no further effect. Default: none.

    Raises:
        InvalidArgumentError: an id or metadata value is wrong.
        DimensionMismatchError, InvalidVectorError: a vector is wrong.
    """
    if x_MD.shape != (len(items), dimension):
        raise DimensionMismatchError(f"vectors have shape {x_MD.shape}, wanted ({len(items)}, {dimension})")
    norms_M = np.linalg.norm(x_MD.astype(np.float64), axis=1)
    if not np.isfinite(norms_M).all() or (metric is Metric.COSINE and not norms_M.all()):
        raise InvalidVectorError("an embedding is not finite, or zero under cosine")
    for item in items:
        if not 1 <= len(item.item_id.encode()) <= MAX_ID_BYTES:
            raise InvalidArgumentError(f"item id {item.item_id[:50]!r} is empty or over {MAX_ID_BYTES} bytes")
        for value in item.metadata.values():
            kind_of(value)
    if len({item.item_id for item in items}) < len(items):
        raise InvalidArgumentError("the same item id was given twice in one request")
    if metric is Metric.COSINE:
        x_MD = x_MD / norms_M[:, None]
    return Write(items=items, x_MD=x_MD.astype(np.float32, copy=False), request_id=request_id)


class Group:
    """Requests that are written together, as the bytes of their records.

    Args:
        number: number of the last record before them.
        ordinal: items upserted by all records before them.
        requests: counts of the requests that are remembered, by id.
    """

    def __init__(self, *, number: int, ordinal: int, requests: Mapping[str, int]) -> None:
        self.bodies: list[bytes] = []
        """The records."""
        self._number = number
        self._ordinal = ordinal
        self._known = requests
        self._requests: dict[str, int] = {}
        self._there: dict[str, bool] = {}

    def add(self, write: Write, is_there: Callable[[str], bool]) -> int:
        """Adds a request; returns the items that it upserts or deletes.

        Args:
            write: the request.
            is_there: says whether there is an item of an id, before this group.
        """
        repeated = self._requests.get(write.request_id, self._known.get(write.request_id)) if write.request_id else None
        if repeated is not None:
            return repeated
        wanted = () if write.items else dict.fromkeys(write.item_ids)
        item_ids = [name for name in wanted if (self._there[name] if name in self._there else is_there(name))]
        count = len(write.items) or len(item_ids)
        if write.request_id:
            self._requests[write.request_id] = count
        if count:
            self._append(write, item_ids, count)
        return count

    def _append(self, write: Write, item_ids: list[str], count: int) -> None:
        self._number += 1
        now = datetime.now(UTC).isoformat()
        head = {
            "number": self._number,
            "ordinal": self._ordinal,
            "request_id": write.request_id,
            "count": count,
            "items": [describe(item, now) for item in write.items],
            "item_ids": item_ids,
        }
        self.bodies.append(encode(head, write.x_MD))
        self._ordinal += len(write.items)
        self._there.update(dict.fromkeys(item_ids, False))
        self._there.update({item.item_id: True for item in write.items})


class Rows:
    """Embeddings that grow at the end; what was given out before stays as it is.

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int) -> None:
        self._buffer_MD: F32Array = np.empty((0, dimension), np.float32)
        self._count = 0

    def extend(self, x_MD: F32Array) -> None:
        """Adds rows."""
        count = self._count + len(x_MD)
        if count > len(self._buffer_MD):
            grown_MD = np.empty((max(_LEAST_ROWS, 2 * count), x_MD.shape[1]), np.float32)
            grown_MD[: self._count] = self._buffer_MD[: self._count]
            self._buffer_MD = grown_MD
        self._buffer_MD[self._count : count] = x_MD
        self._count = count

    def view(self, start: int) -> F32Array:
        """Returns the rows from one on, without copying them."""
        return self._buffer_MD[start : self._count]
