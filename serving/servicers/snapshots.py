"""SnapshotService: which snapshots there are, which is served, and the items in them."""

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from index.curve import CurvePoint, from_json
from index.filters import Filter
from index.live import LiveSnapshot, alive_rows, pending_count
from index.snapshot import FORMAT_VERSION
from serving.context import Call, ServingContext
from serving.generation import Generation
from serving.images import ImageEmbedder
from serving.items import decode_token, encode_item, encode_token, page_bounds
from serving.operation_messages import decode_ask, encode_operation, wait_of
from serving.operation_state import OperationState
from serving.operations import Operations
from serving.options import decode_filter
from serving.upserts import check_upserts, embed_upserts, make_delete, make_upsert
from serving.writes import Writer
from vicinal.artifact import Manifest, read_manifest
from vicinal.codec import encode_metric, encode_time, encode_vector
from vicinal.errors import InvalidArgumentError, NoActiveSnapshotError, VicinalError
from vicinal.store import Store
from vicinal.types import Metric
from vicinal.v1 import snapshot_service_pb2 as pb

logger = logging.getLogger(__name__)
_LOOK_S = 0.1
_REPLY_S = 0.2
"""Time that is left for the reply when an operation has been waited for."""


class SnapshotServicer:
    """Answers SnapshotService.

    Args:
        context: what it works with.
    """

    def __init__(self, context: ServingContext) -> None:
        self._context = context
        self._writer = Writer(context.generations)
        config = context.config
        self._operations = Operations(context.store, config.refresh, life_fd=context.place.life_fd)
        limits = replace(context.config.limits, embedding_cache_count=0)
        self._images = ImageEmbedder(
            limits, run=context.run, slab=context.place.slab, ahead=context.place.has_spare_core
        )

    async def GetActiveSnapshot(
        self,
        request: pb.GetActiveSnapshotRequest,
        call: Call,
    ) -> pb.GetActiveSnapshotResponse:
        """Returns the snapshot that this server answers from."""
        generation = self._context.generations.current()
        base, live = generation.base, generation.snapshot
        return pb.GetActiveSnapshotResponse(
            snapshot=_describe(base.name, base.manifest, active=True),
            ref=generation.ref_message,
            live_item_count=live.item_count if isinstance(live, LiveSnapshot) else base.count,
            pending_item_count=pending_count(live),
        )

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, call: Call) -> pb.ListSnapshotsResponse:
        """Lists the snapshots of the workspace, newest first."""
        size = page_bounds(request.page_size, default=100, largest=1000)
        before = None
        if request.page_token:
            before = decode_token("snapshots", request.page_token, before=int)["before"]
        return await self._context.run(_list, self._context.store, call, size=size, before=before)

    async def ActivateSnapshot(
        self,
        request: pb.ActivateSnapshotRequest,
        call: Call,
    ) -> pb.ActivateSnapshotResponse:
        """Opens a snapshot, moves the alias to it, and answers from it."""
        if not request.name:
            raise InvalidArgumentError("name is empty, wanted such as snapshots/000007", field="name")
        current, previous = await self._context.generations.activate(request.name)
        return pb.ActivateSnapshotResponse(
            snapshot=current.ref_message, previous=previous.ref_message if previous else None
        )

    async def GetItem(
        self,
        request: pb.GetItemRequest,
        call: Call,
    ) -> pb.GetItemResponse:
        """Returns one item."""
        if not request.item_id:
            raise InvalidArgumentError("item_id is empty, wanted the id of an item", field="item_id")
        generation = await self._context.generations.take(request.snapshot)
        snapshot = generation.snapshot
        row = snapshot.items.row(request.item_id)
        return pb.GetItemResponse(
            item=encode_item(snapshot.items.item(row)),
            vector=encode_vector(snapshot.vectors_of(np.array([row]))[0]) if request.include_vector else None,
            snapshot=generation.ref_message,
        )

    async def ListItems(self, request: pb.ListItemsRequest, call: Call) -> pb.ListItemsResponse:
        """Lists items in the order of the snapshot; a page token stays with the snapshot it began on."""
        size = page_bounds(request.page_size, default=1000, largest=10_000)
        name, row = request.snapshot, 0
        if request.page_token:
            token = decode_token("items", request.page_token, snapshot=str, row=int)
            name, row = token["snapshot"], token["row"]
            if row < 0 or request.snapshot not in {"", name}:
                raise InvalidArgumentError("page_token is of another snapshot; start without one", field="page_token")
        generation = await self._context.generations.take(name)
        where = decode_filter(request.filter) if request.HasField("filter") else None
        return await self._context.run(_items, generation, where, call, start=row, size=size)

    async def UpsertItems(self, request: pb.UpsertItemsRequest, call: Call) -> pb.UpsertItemsResponse:
        """Adds or replaces items; answered when they are on disk and searchable here."""
        generation, limits = self._context.generations.current(), self._context.config.limits
        items = await self._context.run(check_upserts, generation, request, most_pending=limits.max_pending_items)
        call.check()
        x_MD = await embed_upserts(generation, request, self._images, call, at_once=limits.max_images)
        write = await self._context.run(make_upsert, generation, request, items, x_MD)
        count, served = await self._writer.write(generation, write, call)
        return pb.UpsertItemsResponse(upserted_count=count, snapshot=served.ref_message)

    async def DeleteItems(self, request: pb.DeleteItemsRequest, call: Call) -> pb.DeleteItemsResponse:
        """Deletes items; answered when that is on disk and they are gone here."""
        write = make_delete(request)
        count, served = await self._writer.write(self._context.generations.current(), write, call)
        return pb.DeleteItemsResponse(
            deleted_count=count, unknown_count=max(0, len(write.item_ids) - count), snapshot=served.ref_message
        )

    async def StartRefresh(self, request: pb.StartRefreshRequest, call: Call) -> pb.StartRefreshResponse:
        """Starts a refresh in a process of its own."""
        state = await self._context.run(self._operations.start_refresh, decode_ask(request))
        return pb.StartRefreshResponse(operation=encode_operation(state))

    async def GetOperation(self, request: pb.GetOperationRequest, call: Call) -> pb.GetOperationResponse:
        """Returns an operation, at once or when it has ended."""
        wait_s = min(wait_of(request), call.deadline_s - time.monotonic() - _REPLY_S)
        state = await self._wait(request.name, wait_s)
        return pb.GetOperationResponse(operation=encode_operation(state))

    async def ListOperations(self, request: pb.ListOperationsRequest, call: Call) -> pb.ListOperationsResponse:
        """Lists operations, newest first."""
        size = page_bounds(request.page_size, default=100, largest=1000)
        before = None
        if request.page_token:
            before = decode_token("operations", request.page_token, before=int)["before"]
        states, rest = await self._context.run(self._operations.page, size=size, before=before)
        token = "" if rest is None else encode_token("operations", {"before": rest})
        return pb.ListOperationsResponse(operations=[encode_operation(one) for one in states], next_page_token=token)

    async def CancelOperation(self, request: pb.CancelOperationRequest, call: Call) -> pb.CancelOperationResponse:
        """Asks an operation to stop; answered when it has."""
        await self._context.run(self._operations.ask_to_stop, request.name)
        state = await self._wait(request.name, call.deadline_s - time.monotonic() - _REPLY_S)
        return pb.CancelOperationResponse(operation=encode_operation(state))

    def close(self) -> None:
        """Lets the operations know that the server is gone."""
        self._operations.close()

    async def _wait(self, name: str, seconds: float) -> OperationState:
        deadline_s = time.monotonic() + seconds
        while True:
            state = await self._context.run(self._operations.get, name)
            if state.done or time.monotonic() >= deadline_s:
                return state
            await asyncio.sleep(_LOOK_S)


def _items(generation: Generation, where: Filter | None, call: Call, *, start: int, size: int) -> pb.ListItemsResponse:
    items = generation.snapshot.items
    snapshot = generation.snapshot
    matching_N = np.flatnonzero(alive_rows(snapshot) if where is None else snapshot.select(where).mask_N)
    begin = int(np.searchsorted(matching_N, start))
    rows = matching_N[begin : begin + size].tolist()
    reply = pb.ListItemsResponse(snapshot=generation.ref_message)
    for place, row in enumerate(rows):
        if place % 256 == 0:
            call.check()
        reply.items.append(encode_item(items.item(row)))
    if begin + size < len(matching_N):
        reply.next_page_token = encode_token("items", {"snapshot": generation.ref.name, "row": rows[-1] + 1})
    return reply


def _list(store: Store, call: Call, *, size: int, before: int | None) -> pb.ListSnapshotsResponse:
    try:
        active = store.active().snapshot
    except NoActiveSnapshotError:
        active = ""
    versions = [version for version in reversed(store.versions("snapshots")) if before is None or int(version) < before]
    reply = pb.ListSnapshotsResponse()
    for version in versions[:size]:
        call.check()
        path = store.root / "snapshots" / version
        try:
            manifest = read_manifest(path, kind="snapshot", version=FORMAT_VERSION, verify=False)
            reply.snapshots.append(_describe(f"snapshots/{version}", manifest, active=version == active))
        except (VicinalError, KeyError, ValueError, TypeError) as error:
            logger.warning("snapshots/%s is not listed: %s", version, error)
    if len(versions) > size:
        reply.next_page_token = encode_token("snapshots", {"before": int(versions[size - 1])})
    return reply


def _describe(name: str, manifest: Manifest, *, active: bool) -> pb.Snapshot:
    body = manifest.body
    created = datetime.fromisoformat(manifest.created_at)
    return pb.Snapshot(
        name=name,
        fingerprint=body["fingerprint"],
        metric=encode_metric(Metric(body["metric"])),
        dimension=body["dimension"],
        item_count=body["count"],
        kind=body["kind"],
        create_time=encode_time(created.astimezone(UTC)),
        size_bytes=sum(int(entry["bytes"]) for entry in manifest.files.values()),
        parent=body.get("parent") or "",
        active=active,
        curve=[_point(point) for point in from_json(body["curve"])],
        default_effort=body["default_effort"],
        encoder=body.get("encoder") or "",
    )


def _point(point: CurvePoint) -> pb.CurvePoint:
    message = pb.CurvePoint(effort=point.effort, recall=point.recall)
    message.p50_latency.FromNanoseconds(int(point.p50_us * 1000))
    message.p99_latency.FromNanoseconds(int(point.p99_us * 1000))
    return message
