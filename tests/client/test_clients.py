"""Both clients: the same methods, the same answers, retries on UNAVAILABLE alone."""

import asyncio
import inspect
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from vicinal import client as public
from vicinal.client import AsyncClient, Client, RetryPolicy, Security
from vicinal.client.channel import call_metadata, channel_options, credentials, to_error
from vicinal.client.query import Options, encode_options, encode_query
from vicinal.client.search import search
from vicinal.errors import InternalError, InvalidArgumentError, InvalidVectorError, NotFoundError, UnavailableError
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2


class Flaky:
    """A server that fails as it is told, then answers."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []
        self.calls: list[float] = []
        server = grpc.server(futures.ThreadPoolExecutor(2))
        handler: Any = grpc.unary_unary_rpc_method_handler(self._search, pb.SearchRequest.FromString, None)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("vicinal.v1.SearchService", {"Search": handler}),)
        )
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        self.stop = server.stop

    def _search(self, request: pb.SearchRequest, context: grpc.ServicerContext) -> bytes:
        self.calls.append(time.monotonic())
        if self.codes:
            context.abort(self.codes.pop(0), "as told")
        reply = pb.SearchResponse(snapshot=types_pb2.SnapshotRef(name="snapshots/000001"))
        reply.neighbors.item_ids.append(request.query.item_id)
        reply.neighbors.scores.append(0.5)
        return reply.SerializeToString()


@pytest.fixture
def flaky() -> Iterator[Flaky]:
    server = Flaky()
    yield server
    server.stop(0).wait()


def test_unavailable_is_retried_with_growing_waits(flaky: Flaky) -> None:
    flaky.codes = [grpc.StatusCode.UNAVAILABLE] * 3
    with Client(flaky.address, retry=RetryPolicy(first_s=0.02)) as client:
        assert list(client.search("a")) == [("a", 0.5)]
    assert len(flaky.calls) == 4


def test_nothing_else_is_retried(flaky: Flaky) -> None:
    for code, cls in (
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgumentError),
    ):
        flaky.codes, flaky.calls = [code], []
        with Client(flaky.address) as client, pytest.raises(cls, match="as told"):
            client.search("a")
        assert len(flaky.calls) == 1


def test_retries_end_at_the_policy_and_at_the_deadline(flaky: Flaky) -> None:
    flaky.codes = [grpc.StatusCode.UNAVAILABLE] * 50
    with Client(flaky.address, retry=RetryPolicy(attempt_count=3, first_s=0.01)) as client:
        with pytest.raises(UnavailableError):
            client.search("a")
        assert len(flaky.calls) == 3
        started = time.monotonic()
    with Client(flaky.address, retry=RetryPolicy(attempt_count=1000, first_s=0.05)) as client:
        with pytest.raises(UnavailableError):
            client.search("a", timeout_s=0.3)
        assert time.monotonic() - started < 2


def test_the_asyncio_client_retries_too(flaky: Flaky) -> None:
    async def run() -> None:
        flaky.codes = [grpc.StatusCode.UNAVAILABLE] * 2
        async with AsyncClient(flaky.address, retry=RetryPolicy(first_s=0.02)) as client:
            assert (await client.search("a")).item_ids == ["a"]
            flaky.codes = [grpc.StatusCode.NOT_FOUND]
            with pytest.raises(NotFoundError):
                await client.search("a")
            many = await asyncio.gather(*(client.search(str(n)) for n in range(20)))
            assert [one.item_ids[0] for one in many] == [str(n) for n in range(20)]

    asyncio.run(run())


def test_no_server_is_one_clear_error() -> None:
    once = RetryPolicy(attempt_count=1)
    with Client("127.0.0.1:1", retry=once) as client, pytest.raises(UnavailableError, match="no server answers at"):
        client.search("a")


@pytest.mark.parametrize(("details", "expected"), [("Internal error from Core", UnavailableError), ("", InternalError)])
def test_a_connection_that_breaks_while_a_call_is_sent_is_an_unavailable_server(details: str, expected: type) -> None:
    nothing = grpc.aio.Metadata()
    found = to_error(grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, details), "127.0.0.1:1")
    assert type(found) is expected


def test_a_client_may_be_shared_by_threads(flaky: Flaky) -> None:
    found: list[str] = []
    with Client(flaky.address) as client:
        threads = [threading.Thread(target=lambda n=n: found.extend(client.search(str(n)).item_ids)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == sorted(str(n) for n in range(16))


def test_both_clients_have_the_same_methods() -> None:
    def methods(cls: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(value)
            for name, value in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_") and name not in {"close", "call", "stream_search"}
        }

    assert methods(Client) == methods(AsyncClient)
    assert all(inspect.getdoc(getattr(Client, name)) for name in methods(Client))


def test_every_public_name_is_exported() -> None:
    assert sorted(public.__all__) == public.__all__
    assert all(hasattr(public, name) for name in public.__all__)


@pytest.mark.parametrize("query", [3.5, object(), np.zeros((2, 3)), [[1.0], [2.0]], ["a", "b"]])
def test_what_is_no_query_is_refused_before_it_is_sent(query: object) -> None:
    with pytest.raises(InvalidArgumentError):
        encode_query(query)  # type: ignore[arg-type]


def test_every_form_of_a_query_is_encoded() -> None:
    assert encode_query("a").item_id == "a"
    assert encode_query(b"img").content == b"img"
    assert encode_query(bytearray(b"img")).content == b"img"
    assert encode_query([1.0, 2.0]).vector.dimension == 2
    ready = types_pb2.Query(item_id="b")
    assert encode_query(ready) == ready
    with pytest.raises(InvalidVectorError, match="batch_search"):
        encode_query(np.zeros((2, 2)))


def test_options_are_encoded_and_wrong_ones_refused() -> None:
    options = encode_options({"neighbor_count": 3, "group_by": "split", "group_size": 2, "include_items": True})
    assert (options.neighbor_count, options.grouping.column, options.grouping.neighbor_count) == (3, "split", 2)
    assert options.item_view == types_pb2.ITEM_VIEW_FULL
    assert not encode_options({}).HasField("neighbor_count")
    for wrong in ({"neighbor_count": 2**40}, {"neighbor_count": "many"}, {"unknown": 1}):
        with pytest.raises(InvalidArgumentError):
            encode_options(wrong)  # type: ignore[arg-type]


def test_security_is_checked_before_anything_is_sent(tmp_path: Path) -> None:
    assert credentials(Security()) is None
    assert credentials(Security(tls=True)) is not None
    with pytest.raises(InvalidArgumentError, match="go together"):
        credentials(Security(certificate="a"))
    with pytest.raises(InvalidArgumentError, match="cannot read"):
        credentials(Security(ca=str(tmp_path / "none.pem")))
    assert call_metadata(Security(api_key="k")) == (("authorization", "Bearer k"),)
    assert ("grpc.ssl_target_name_override", "name") in channel_options(Security(server_name="name"))


def test_waits_are_jittered_and_capped() -> None:
    policy = RetryPolicy(first_s=0.1, max_s=1.0)
    waits = [policy.wait_s(attempt) for attempt in range(12) for _ in range(50)]
    assert 0 < min(waits) < max(waits) <= 1.0
    assert len({round(wait, 9) for wait in waits}) > 100


@pytest.mark.parametrize("dtype", ["float32", ">f4", "float64", "float16"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"neighbor_count": 7, "effort": -1, "min_score": 0.5},
        {"group_by": "ÿ", "page_token": "ÿÿÿÿ", "include_items": True},
    ],
)
def test_a_request_around_a_vector_is_what_its_message_says(dtype: str, options: Options) -> None:
    for values in ([1.5], [float("nan"), -1.0, 0.0], list(range(300))):
        x_D = np.array(values, dtype=dtype)
        raw = search(x_D, snapshot="snapshots/000007", fingerprint="ÿ", **options).request
        assert isinstance(raw, bytes)
        wanted = pb.SearchRequest(options=encode_options(options), snapshot="snapshots/000007")
        wanted.query.CopyFrom(encode_query(list(x_D), fingerprint="ÿ"))
        assert pb.SearchRequest.FromString(raw) == wanted or raw == wanted.SerializeToString()


def test_options_that_are_no_keys_make_a_message() -> None:
    request = search(np.ones(4, np.float32), filter=types_pb2.Filter(), excluded_item_ids=["a"]).request
    assert isinstance(request, pb.SearchRequest)
    assert request.options.excluded_item_ids == ["a"]
    with pytest.raises(InvalidArgumentError, match="an option is of the wrong type"):
        search(np.ones(4, np.float32), neighbor_count="many")  # type: ignore[arg-type]  # what is tested
