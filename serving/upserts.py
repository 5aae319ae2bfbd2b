"""Turns UpsertItems and DeleteItems requests into changes: everything is checked before anything is written."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from index.delta_writes import Write, checked_write
from index.live import LiveSnapshot
from index.live_items import fits
from serving.context import Call
from serving.generation import Generation
from serving.images import ImageEmbedder
from vicinal.codec import decode_value, decode_vector
from vicinal.corpus import MetadataValue
from vicinal.errors import (
    DimensionMismatchError,
    InvalidArgumentError,
    InvalidVectorError,
    PendingLimitError,
    VicinalError,
)
from vicinal.item_table import CORE_COLUMNS
from vicinal.items import Item, kind_of
from vicinal.types import F32Array
from vicinal.v1 import snapshot_service_pb2 as pb
from vicinal.v1 import types_pb2

SOURCE = "api"
"""Source of the items that came through the API."""
_MAX_ITEMS = 1000
_MAX_DELETED = 10_000
_MAX_ID_BYTES = 1024
_MAX_REQUEST_ID = 128
_MAX_COLUMNS = 64
_MAX_NAME_BYTES = 256
_MAX_TEXT_BYTES = 65_536
_LABELS = "labels."


def check_upserts(generation: Generation, request: pb.UpsertItemsRequest, *, most_pending: int) -> list[Item]:
    """Returns the items of a request, without digests.

    Args:
        generation: what they are added beside.
        request: the message.
        most_pending: items that may wait for a refresh.

    Raises:
        InvalidArgumentError: what is wrong, with its field.
        PendingLimitError: too many wait.
    """
    check_request_id(request.request_id)
    if not 1 <= len(request.items) <= _MAX_ITEMS:
        raise InvalidArgumentError(f"{len(request.items)} items in a request, wanted 1 to {_MAX_ITEMS}", field="items")
    snapshot = generation.snapshot
    pending = snapshot.added_count if isinstance(snapshot, LiveSnapshot) else 0
    if pending + len(request.items) > most_pending:
        raise PendingLimitError(
            f"{pending:,} upserted items wait for a refresh, the limit is {most_pending:,} (limits.max_pending_items); "
            "run: vicinal refresh"
        )
    kinds, now = dict(snapshot.items.columns), datetime.now(UTC)
    seen: set[str] = set()
    items = []
    for place, upsert in enumerate(request.items):
        field = f"items[{place}]"
        _check_id(upsert.item_id, f"{field}.item_id")
        if upsert.item_id in seen:
            raise InvalidArgumentError(f"item {upsert.item_id[:200]!r} is given twice", field=f"{field}.item_id")
        seen.add(upsert.item_id)
        metadata = _metadata(upsert.metadata, kinds, f"{field}.metadata")
        items.append(Item(item_id=upsert.item_id, digest="", source=SOURCE, path="", added_at=now, metadata=metadata))
    return items


async def embed_upserts(
    generation: Generation, request: pb.UpsertItemsRequest, images: ImageEmbedder, call: Call, *, at_once: int
) -> F32Array:
    """Returns the embeddings of the items of a request, float32 (M, D), checked.

    Args:
        generation: whose encoder is used.
        request: the message.
        images: embeds images.
        call: whose deadline is checked.
        at_once: images that are embedded together.

    Raises:
        InvalidVectorError, InvalidImageError: of the first item that is wrong, with its field.
        DimensionMismatchError: a vector of another dimension.
        NoEncoderError: an image, and the snapshot has no encoder.
    """
    x_MD = np.zeros((len(request.items), generation.snapshot.dimension), np.float32)
    places = []
    for place, upsert in enumerate(request.items):
        if upsert.WhichOneof("value") == "content":
            places.append(place)
        else:
            x_MD[place] = _vector(generation, upsert, f"items[{place}].vector")
    for start in range(0, len(places), at_once):
        some = places[start : start + at_once]
        found = await images.embed_all(generation, [request.items[place].content for place in some], call)
        for place, one in zip(some, found, strict=True):
            if isinstance(one, VicinalError):
                raise type(one)(f"item {place}: {one.message}", field=f"items[{place}].content")
            x_MD[place] = one
    try:
        return generation.base.check_queries(x_MD)
    except InvalidVectorError as error:
        place = int(error.metadata.get("vector", 0))
        raise InvalidVectorError(f"item {error.message}", field=f"items[{place}].vector") from error


def make_upsert(generation: Generation, request: pb.UpsertItemsRequest, items: Sequence[Item], x_MD: F32Array) -> Write:
    """Returns the change that a checked request asks for.

    Args:
        generation: what the items are added beside.
        request: the message.
        items: from ``check_upserts``.
        x_MD: from ``embed_upserts``.
    """
    described = []
    for item, upsert, x_D in zip(items, request.items, x_MD, strict=True):
        content = upsert.content if upsert.WhichOneof("value") == "content" else x_D.astype("<f4").tobytes()
        described.append(
            Item(
                item_id=item.item_id,
                digest=hashlib.sha256(content).hexdigest(),
                source=item.source,
                path=item.path,
                added_at=item.added_at,
                metadata=item.metadata,
            )
        )
    snapshot = generation.snapshot
    return checked_write(
        described, x_MD, dimension=snapshot.dimension, metric=snapshot.metric, request_id=request.request_id
    )


def make_delete(request: pb.DeleteItemsRequest) -> Write:
    """Returns the change that a request asks for.

    Raises:
        InvalidArgumentError: what is wrong, with its field.
    """
    check_request_id(request.request_id)
    if not 1 <= len(request.item_ids) <= _MAX_DELETED:
        raise InvalidArgumentError(
            f"{len(request.item_ids)} ids in a request, wanted 1 to {_MAX_DELETED}", field="item_ids"
        )
    for place, item_id in enumerate(request.item_ids):
        _check_id(item_id, f"item_ids[{place}]")
    return Write(item_ids=tuple(dict.fromkeys(request.item_ids)), request_id=request.request_id)


def check_request_id(request_id: str) -> None:
    """Refuses a request id that is too long.

    Raises:
        InvalidArgumentError: it is.
    """
    if len(request_id.encode()) > _MAX_REQUEST_ID:
        raise InvalidArgumentError(
            f"request_id has {len(request_id.encode())} bytes, wanted at most {_MAX_REQUEST_ID}", field="request_id"
        )


def _check_id(item_id: str, field: str) -> None:
    size = len(item_id.encode())
    if not 1 <= size <= _MAX_ID_BYTES:
        raise InvalidArgumentError(f"an item id has 1 to {_MAX_ID_BYTES} bytes, got {size}", field=field)


def _vector(generation: Generation, upsert: pb.ItemUpsert, field: str) -> F32Array:
    if upsert.WhichOneof("value") is None:
        raise InvalidArgumentError(
            f"item {upsert.item_id[:200]!r} has no value; set content or vector", field=field.rpartition(".")[0]
        )
    x_D = decode_vector(upsert.vector, field=field)
    if x_D.size != generation.snapshot.dimension:
        raise DimensionMismatchError(
            f"the vector of item {upsert.item_id[:200]!r} has dimension {x_D.size}, {generation.ref.name} has "
            f"{generation.snapshot.dimension}; embed with the snapshot's own encoder",
            field=field,
        )
    return x_D


def _metadata(values: Mapping[str, types_pb2.Value], kinds: dict[str, str], field: str) -> dict[str, MetadataValue]:
    """Returns the metadata of an item, and adds its new columns to ``kinds``."""
    if len(values) > _MAX_COLUMNS:
        raise InvalidArgumentError(f"{len(values)} metadata columns, wanted at most {_MAX_COLUMNS}", field=field)
    found: dict[str, MetadataValue] = {}
    for name, message in values.items():
        _check_column(name, field)
        try:
            value = decode_value(message)
        except (ValueError, OverflowError) as error:
            raise InvalidArgumentError(f"the value of {name[:80]!r} is no valid time", field=field) from error
        _check_value(name, value, kinds, field)
        kind = kind_of(value)
        if kind is not None:
            kinds.setdefault(name, kind)
        found[name] = value
    return found


def _check_column(name: str, field: str) -> None:
    if not 1 <= len(name.encode()) <= _MAX_NAME_BYTES or name in CORE_COLUMNS or name.startswith(_LABELS):
        raise InvalidArgumentError(
            f"a metadata column may not be called {name[:80]!r}: wanted 1 to {_MAX_NAME_BYTES} bytes, none of "
            f"{', '.join(CORE_COLUMNS)}, and not {_LABELS}NAME",
            field=field,
        )


def _check_value(name: str, value: MetadataValue, kinds: Mapping[str, str], field: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgumentError(f"the value of {name[:80]!r} is not finite", field=field)
    if isinstance(value, str) and len(value.encode()) > _MAX_TEXT_BYTES:
        raise InvalidArgumentError(f"the text of {name[:80]!r} is longer than {_MAX_TEXT_BYTES} bytes", field=field)
    kind = kinds.get(name)
    if kind is not None and not fits(value, kind):
        raise InvalidArgumentError(f"column {name[:80]!r} is {kind}, got {kind_of(value)}", field=field)
