"""SnapshotService: which snapshots there are, which is served, and the items in them."""

import logging
from datetime import UTC, datetime

import numpy as np

from index.curve import CurvePoint, from_json
from index.filters import Filter
from index.snapshot import FORMAT_VERSION
from serving.context import Call, ServingContext
from serving.generation import Generation
from serving.items import decode_token, encode_item, encode_token, page_bounds
from serving.options import decode_filter
from vicinal.artifact import Manifest, read_manifest
from vicinal.codec import encode_metric, encode_time, encode_vector
from vicinal.errors import InvalidArgumentError, NoActiveSnapshotError, VicinalError
from vicinal.store import Store
from vicinal.types import Metric
from vicinal.v1 import snapshot_service_pb2 as pb

logger = logging.getLogger(__name__)


class SnapshotServicer:
    """Answers SnapshotService.

    Args:
        context: what it works with.
    """

    def __init__(self, context: ServingContext) -> None:
        self._context = context

    async def GetActiveSnapshot(
        self,
        request: pb.GetActiveSnapshotRequest,
        call: Call,
    ) -> pb.GetActiveSnapshotResponse:
        """Returns the snapshot that this server answers from."""
        generation = self._context.generations.current()
        snapshot = generation.snapshot
        message = _describe(snapshot.name, snapshot.manifest, active=True)
        return pb.GetActiveSnapshotResponse(snapshot=message, ref=generation.ref_message)

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
            vector=encode_vector(snapshot.vectors_ND[row]) if request.include_vector else None,
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


def _items(generation: Generation, where: Filter | None, call: Call, *, start: int, size: int) -> pb.ListItemsResponse:
    items = generation.snapshot.items
    matching_N = np.arange(items.count) if where is None else generation.snapshot.select(where).rows_M
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
