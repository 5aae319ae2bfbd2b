"""The calls of SnapshotService that concern snapshots and items."""

from dataclasses import replace
from datetime import UTC

from vicinal.client.call import Call
from vicinal.client.results import CurvePoint, ItemPage, ItemResult, Snapshot, SnapshotPage
from vicinal.client.search import decode_item
from vicinal.codec import decode_metric, decode_ref, decode_vector
from vicinal.types import SnapshotRef
from vicinal.v1 import snapshot_service_pb2 as pb
from vicinal.v1 import types_pb2

_SERVICE = "/vicinal.v1.SnapshotService"


def get_active_snapshot(*, timeout_s: float | None = None) -> Call[Snapshot]:
    """Returns the snapshot that is being served.

    Args:
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        NoActiveSnapshotError: nothing has been published yet.
    """
    return Call(
        method=f"{_SERVICE}/GetActiveSnapshot",
        request=pb.GetActiveSnapshotRequest(),
        response=pb.GetActiveSnapshotResponse,
        decode=lambda reply: replace(
            _snapshot(reply.snapshot),
            live_item_count=reply.live_item_count,
            pending_item_count=reply.pending_item_count,
        ),
        timeout_s=timeout_s,
    )


def list_snapshots(*, page_size: int = 100, page_token: str = "", timeout_s: float | None = None) -> Call[SnapshotPage]:
    """Lists the snapshots of the workspace, newest first.

    Args:
        page_size: entries a page, 1 to 1,000; larger is cut.
        page_token: from the page before.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        InvalidArgumentError: page_size is negative, or a token this server did not give.
    """
    return Call(
        method=f"{_SERVICE}/ListSnapshots",
        request=pb.ListSnapshotsRequest(page_size=page_size, page_token=page_token),
        response=pb.ListSnapshotsResponse,
        decode=lambda reply: SnapshotPage(
            snapshots=[_snapshot(snapshot) for snapshot in reply.snapshots], next_page_token=reply.next_page_token
        ),
        timeout_s=timeout_s,
    )


def activate_snapshot(name: str, *, timeout_s: float | None = None) -> Call[SnapshotRef]:
    """Puts a snapshot in service, also an older one; returns when the server answers from it.

    Args:
        name: such as ``snapshots/000007``.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        SnapshotNotFoundError: no such snapshot.
        CorruptArtifactError: it is damaged; what is served has not changed.
    """
    return Call(
        method=f"{_SERVICE}/ActivateSnapshot",
        request=pb.ActivateSnapshotRequest(name=name),
        response=pb.ActivateSnapshotResponse,
        decode=lambda reply: decode_ref(reply.snapshot),
        timeout_s=timeout_s,
    )


def get_item(
    item_id: str, *, include_vector: bool = False, snapshot: str = "", timeout_s: float | None = None
) -> Call[ItemResult]:
    """Returns one item of a snapshot.

    Args:
        item_id: its id.
        include_vector: return its embedding too.
        snapshot: read from this snapshot; empty for the active one.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        ItemNotFoundError: no such item.
    """
    return Call(
        method=f"{_SERVICE}/GetItem",
        request=pb.GetItemRequest(item_id=item_id, include_vector=include_vector, snapshot=snapshot),
        response=pb.GetItemResponse,
        decode=lambda reply: ItemResult(
            item=decode_item(reply.item),
            vector=decode_vector(reply.vector) if reply.HasField("vector") else None,
            snapshot=decode_ref(reply.snapshot),
        ),
        timeout_s=timeout_s,
    )


def list_items(
    *,
    page_size: int = 1000,
    page_token: str = "",
    filter: types_pb2.Filter | None = None,  # noqa: A002 - the name in the API
    snapshot: str = "",
    timeout_s: float | None = None,
) -> Call[ItemPage]:
    """Lists items in the order of the snapshot.

    Args:
        page_size: entries a page, 1 to 10,000; larger is cut.
        page_token: from the page before.
        filter: only items that match; must be the same for every page.
        snapshot: read from this snapshot; empty for the active one.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        InvalidArgumentError: page_size is negative, or a token this server did not give.
    """
    return Call(
        method=f"{_SERVICE}/ListItems",
        request=pb.ListItemsRequest(page_size=page_size, page_token=page_token, filter=filter, snapshot=snapshot),
        response=pb.ListItemsResponse,
        decode=lambda reply: ItemPage(
            items=[decode_item(item) for item in reply.items],
            next_page_token=reply.next_page_token,
            snapshot=decode_ref(reply.snapshot),
        ),
        timeout_s=timeout_s,
    )


def _snapshot(message: pb.Snapshot) -> Snapshot:
    return Snapshot(
        name=message.name,
        fingerprint=message.fingerprint,
        metric=decode_metric(message.metric),
        dimension=message.dimension,
        item_count=message.item_count,
        kind=message.kind,
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
        size_bytes=message.size_bytes,
        parent=message.parent,
        active=message.active,
        curve=[_point(point) for point in message.curve],
        default_effort=message.default_effort,
        encoder=message.encoder,
    )


def _point(message: pb.CurvePoint) -> CurvePoint:
    return CurvePoint(
        effort=message.effort,
        recall=message.recall,
        p50_s=message.p50_latency.ToTimedelta().total_seconds(),
        p99_s=message.p99_latency.ToTimedelta().total_seconds(),
    )
