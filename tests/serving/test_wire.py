"""What stands between gRPC and the servicers: bad bytes, deadlines, limits, health, reflection, bugs."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.servicers.search import SearchServicer
from tests.serving.conftest import add_snapshot, config, make_vectors, running
from vicinal.client import AsyncClient, Client, RetryPolicy
from vicinal.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
)
from vicinal.store import Store
from vicinal.v1 import search_service_pb2 as pb


def raw_call(address: str, raw: bytes, *, method: str = "Search", **options: Any) -> bytes:
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(f"/vicinal.v1.SearchService/{method}")
        return bytes(call(raw, timeout=10, **options))


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\xff", b"\x0a\x04\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_an_invalid_argument(vector_server: str, raw: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(vector_server, raw)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a valid SearchRequest" in str(caught.value.details())


def test_an_error_carries_reason_domain_field_and_request_id(vector_server: str) -> None:
    request = pb.SearchRequest()
    request.options.neighbor_count = 0
    request.query.item_id = "item-00001"
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(vector_server, request.SerializeToString(), metadata=(("x-request-id", "mine-7"),))
    metadata: Any = caught.value.trailing_metadata()
    trailing = dict(metadata)
    assert trailing["x-request-id"] == "mine-7"
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("INVALID_ARGUMENT", "vicinal.v1")
    assert status.details[1].Unpack(bad)
    assert bad.field_violations[0].field == "options.neighbor_count"


def test_a_message_over_the_limit_is_refused(vector_store: Store) -> None:
    with running(vector_store, config("limits.max_message_mib=1")) as (_, address), Client(address) as client:
        with pytest.raises(InvalidArgumentError, match="too large"):
            client.batch_search(np.zeros((20_000, 16), np.float32))
        assert len(client.search("item-00001")) == 10


def test_health_is_serving_only_with_a_snapshot(store: Store) -> None:
    with running(store, config()) as (_, address), grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        names = ("", "vicinal.v1.SearchService", "vicinal.v1.SnapshotService")
        for name in names:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
        add_snapshot(store, make_vectors(30))
        store.activate("1")
        deadline = time.monotonic() + 10
        for name in names:
            status = None
            while status != health_pb2.HealthCheckResponse.SERVING and time.monotonic() < deadline:
                status = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status
            assert status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_tells_the_contract(vector_server: str) -> None:
    with grpc.insecure_channel(vector_server) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        names = set(database.get_services())
        assert {"vicinal.v1.SearchService", "vicinal.v1.FewshotService", "grpc.health.v1.Health"} <= names
        assert "SearchRequest" in str(database.FindFileContainingSymbol("vicinal.v1.SearchService"))


class Blocked:
    """Makes every Search wait until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let_go = threading.Event()
        self.started = threading.Semaphore(0)

        async def search(servicer: SearchServicer, request: pb.SearchRequest, call: Any) -> pb.SearchResponse:
            self.started.release()
            while not self.let_go.is_set():
                await asyncio.sleep(0.005)
            return pb.SearchResponse()

        monkeypatch.setattr(SearchServicer, "Search", search)


def test_overload_is_refused_quickly_with_retry_info(vector_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = Blocked(monkeypatch)
    with running(vector_store, config("limits.max_in_flight=2")) as (server, address), Client(address) as client:
        threads = [threading.Thread(target=lambda: client.search("item-00001")) for _ in range(2)]
        for thread in threads:
            thread.start()
            blocked.started.acquire()
        started = time.monotonic()
        with pytest.raises(OverloadedError, match="limit is 2") as caught:
            client.search("item-00001")
        assert time.monotonic() - started < 1
        assert caught.value.metadata["retry_after_ms"] == "50"
        assert server.admission.refused_count == 1
        blocked.let_go.set()
        for thread in threads:
            thread.join()
        assert server.admission.in_flight == 0


def test_more_vector_queries_than_may_wait_are_refused_with_retry_info(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    x_ND = make_vectors(600)
    add_snapshot(store, x_ND, kind="hnsw")
    store.activate("000001")

    async def ask(address: str) -> list[Any]:
        async with AsyncClient(address) as client:
            await client.search(x_ND[0])
            return list(await asyncio.gather(*(client.search(x_D) for x_D in x_ND), return_exceptions=True))

    with running(store, config("limits.max_waiting=5")) as (server, address):
        found = asyncio.run(ask(address))
        refused = [one for one in found if isinstance(one, OverloadedError)]
        assert refused
        assert "5 queries wait for their turn, which is the limit" in str(refused[0])
        assert refused[0].metadata["retry_after_ms"] == "50"
        assert server.admission.refused_count == len(refused)
        rows = [row for row, one in enumerate(found) if not isinstance(one, OverloadedError)]
        assert len(rows) >= 6
        assert all(found[row].item_ids[0] == f"item-{row:05d}" for row in rows)
        assert server.admission.in_flight == 0
    # As many as a client sends at once are no overload by default.
    with running(store, config()) as (server, address):
        assert not [one for one in asyncio.run(ask(address)) if isinstance(one, Exception)]
        assert server.admission.refused_count == 0


def test_one_client_may_not_take_all(vector_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = Blocked(monkeypatch)
    limited = config("limits.max_in_flight_per_client=1")
    with running(vector_store, limited) as (_, address), Client(address) as client:
        thread = threading.Thread(target=lambda: client.search("item-00001"))
        thread.start()
        blocked.started.acquire()
        with pytest.raises(OverloadedError, match="for one client is 1"):
            client.search("item-00001")
        blocked.let_go.set()
        thread.join()


def test_a_deadline_ends_the_call_and_frees_its_place(vector_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    Blocked(monkeypatch)
    with running(vector_store, config()) as (server, address), Client(address) as client:
        with pytest.raises(DeadlineExceededError):
            client.search("item-00001", timeout_s=0.1)
        deadline = time.monotonic() + 5
        while server.admission.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.admission.in_flight == 0


def test_a_call_without_a_deadline_gets_the_servers(vector_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    Blocked(monkeypatch)
    with running(vector_store, config("limits.default_timeout_s=0.1")) as (_, address):
        with grpc.insecure_channel(address) as channel:
            call: Any = channel.unary_unary("/vicinal.v1.SearchService/Search")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"")
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "0.1 s" in str(caught.value.details())


def error_of(client: Client) -> InternalError:
    with pytest.raises(InternalError) as caught:
        client.search("item-00001")
    return caught.value


def test_a_bug_is_internal_with_a_request_id_and_no_internals(
    vector_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(SearchServicer, "Search", broken)
    with running(vector_store, config()) as (_, address), Client(address) as client:
        shown = error_of(client)
    assert "secret" not in shown.message
    assert shown.metadata["request_id"] in shown.message
    assert any("secret detail" in str(record.exc_info) for record in caplog.records)


def test_draining_lets_calls_in_flight_end_and_turns_new_ones_away(
    vector_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = Blocked(monkeypatch)
    results: list[Any] = []
    with running(vector_store, config("listen.drain_s=10")) as (server, address), Client(address) as client:
        thread = threading.Thread(target=lambda: results.append(client.search("item-00001")))
        thread.start()
        blocked.started.acquire()
        server.admission.draining = True
        with (
            pytest.raises(UnavailableError, match="shutting down"),
            Client(address, retry=RetryPolicy(attempt_count=1)) as other,
        ):
            other.search("item-00001")
        threading.Timer(0.3, blocked.let_go.set).start()
        thread.join()
    assert len(results) == 1
