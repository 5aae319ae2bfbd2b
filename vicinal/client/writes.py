"""The calls of SnapshotService that change items."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vicinal.client.call import Call
from vicinal.codec import Scalar, decode_ref, encode_value, encode_vector
from vicinal.errors import InvalidArgumentError, InvalidVectorError
from vicinal.types import SnapshotRef
from vicinal.v1 import snapshot_service_pb2 as pb

ItemLike: TypeAlias = "bytes | npt.NDArray[np.floating] | Sequence[float]"
"""An encoded image, or a vector of shape (D,)."""
_SERVICE = "/vicinal.v1.SnapshotService"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemUpsert:
    """One item to add or replace."""

    item_id: str
    """Its id, 1 to 1,024 bytes."""
    value: ItemLike
    """The image, or an embedding by the snapshot's own encoder."""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    """Values by column; of the column's type where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsertResult:
    """What became of an upsert."""

    upserted_count: int
    """Items that are on disk and searchable."""
    snapshot: SnapshotRef
    """The snapshot they were added beside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteResult:
    """What became of a deletion."""

    deleted_count: int
    """Items that were there and are gone."""
    unknown_count: int
    """Ids that were not there."""
    snapshot: SnapshotRef
    """The snapshot they were deleted from."""


def upsert_items(
    items: Sequence[ItemUpsert], *, request_id: str = "", timeout_s: float | None = None
) -> Call[UpsertResult]:
    """Adds or replaces items; when this returns they are on disk and searchable.

    Args:
        items: 1 to 1,000 of them; all are taken or none is.
        request_id: up to 128 bytes; repeating a request with the same id has no further effect. Default: a new one,
            so that a retry of this call does nothing twice.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        InvalidArgumentError: an item is wrong; nothing was changed.
        DimensionMismatchError: a vector of another dimension.
        PendingLimitError: too many changes wait for a refresh.
        DeadlineExceededError: the items may have been taken or not; repeat with the same ``request_id``.
    """
    request = pb.UpsertItemsRequest(items=[_encode(item) for item in items], request_id=request_id or uuid.uuid4().hex)
    return Call(
        method=f"{_SERVICE}/UpsertItems",
        request=request,
        response=pb.UpsertItemsResponse,
        decode=lambda reply: UpsertResult(upserted_count=reply.upserted_count, snapshot=decode_ref(reply.snapshot)),
        timeout_s=timeout_s,
    )


def delete_items(
    item_ids: Sequence[str], *, request_id: str = "", timeout_s: float | None = None
) -> Call[DeleteResult]:
    """Deletes items; when this returns that is on disk and they are found no more.

    Args:
        item_ids: 1 to 10,000 ids; unknown ones are counted.
        request_id: as for ``upsert_items``.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        InvalidArgumentError: no ids, or a bad one.
        DeadlineExceededError: the items may be gone or not; repeat with the same ``request_id``.
    """
    return Call(
        method=f"{_SERVICE}/DeleteItems",
        request=pb.DeleteItemsRequest(item_ids=item_ids, request_id=request_id or uuid.uuid4().hex),
        response=pb.DeleteItemsResponse,
        decode=lambda reply: DeleteResult(
            deleted_count=reply.deleted_count,
            unknown_count=reply.unknown_count,
            snapshot=decode_ref(reply.snapshot),
        ),
        timeout_s=timeout_s,
    )


def _encode(item: ItemUpsert) -> pb.ItemUpsert:
    metadata = {name: encode_value(value) for name, value in item.metadata.items()}
    if isinstance(item.value, bytes | bytearray | memoryview):
        return pb.ItemUpsert(item_id=item.item_id, content=bytes(item.value), metadata=metadata)
    try:
        x_D = np.asarray(item.value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"item {item.item_id!r} is an image (bytes) or a vector, got {type(item.value).__name__}", field="items"
        ) from error
    if x_D.ndim != 1:
        raise InvalidVectorError(f"the vector of item {item.item_id!r} has shape {x_D.shape}, wanted (D,)")
    return pb.ItemUpsert(item_id=item.item_id, vector=encode_vector(x_D), metadata=metadata)
