"""Plain requests answered from their bytes: the same bytes as the general reply, or left to the general path."""

import time
from pathlib import Path

import numpy as np
import pytest

from serving.config import LimitsConfig
from serving.context import Call
from serving.fast import FastPath
from serving.generation import Generation, open_generation
from serving.queries import Queries
from serving.search import Searcher
from tests.serving.conftest import add_snapshot, config, make_vectors, running
from vicinal.client import Client
from vicinal.codec import encode_vector
from vicinal.errors import InvalidVectorError
from vicinal.store import Store
from vicinal.types import F32Array, Metric
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2

LIMITS = LimitsConfig()


def request_of(x_D: F32Array, *, count: int | None = 10, dimension: bool = True, **more: float) -> pb.SearchRequest:
    vector = encode_vector(x_D)
    if not dimension:
        vector.ClearField("dimension")
    options = types_pb2.SearchOptions(**more)  # type: ignore[arg-type]
    if count is not None:
        options.neighbor_count = count
    return pb.SearchRequest(query=types_pb2.Query(vector=vector), options=options)


@pytest.fixture(
    scope="module",
    params=[
        ("hnsw", Metric.L2),
        ("hnsw", Metric.COSINE),
        ("hnsw", Metric.INNER_PRODUCT),
        ("hnsw_sq8", Metric.L2),
        ("hnsw_f16", Metric.COSINE),
    ],
    ids=lambda param: f"{param[0]}-{param[1].value}",
)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generation, Searcher]:
    kind, metric = request.param
    store = Store.create(tmp_path_factory.mktemp("plain") / "workspace")
    x_ND = make_vectors(600)
    x_ND[300:310] = x_ND[:10]  # ties, whose order is that of the rows
    add_snapshot(store, x_ND, kind=kind, metric=metric)
    return open_generation(store, "snapshots/000001"), Searcher(LIMITS, Queries(LIMITS), store)


def general_reply(opened: tuple[Generation, Searcher], request: pb.SearchRequest) -> bytes:
    generation, searcher = opened
    call = Call(method="/m", request_id="", client="", deadline_s=time.monotonic() + 60)
    reply: bytes = searcher.search(generation, request, call).SerializeToString()
    return reply


def test_a_plain_request_has_the_general_reply_whenever_it_comes(opened: tuple[Generation, Searcher]) -> None:
    fast = FastPath(opened[0], LIMITS)
    queries = np.concatenate(
        [make_vectors(12, seed=4), make_vectors(10), 1e-6 * make_vectors(2), 1e6 * make_vectors(2)]
    )
    for x_D in queries:
        for count in (None, 1, 7, 10, 100):
            for dimension in (True, False):
                request = request_of(x_D, count=count, dimension=dimension)
                assert fast.answer(request.SerializeToString()) == general_reply(opened, request)


def test_effort_and_recall_may_be_asked_for(opened: tuple[Generation, Searcher]) -> None:
    fast = FastPath(opened[0], LIMITS)
    for x_D in make_vectors(5, seed=4):
        for more in (
            {"effort": 7},
            {"effort": 400},
            {"effort": 10_000},
            {"target_recall": 0.5},
            {"target_recall": 0.9},
        ):
            request = request_of(x_D, **more)
            assert fast.answer(request.SerializeToString()) == general_reply(opened, request)
    for more in ({"effort": 0}, {"target_recall": 2.0}, {"target_recall": 1.0}, {"effort": 3, "target_recall": 0.9}):
        assert fast.answer(request_of(make_vectors(1)[0], **more).SerializeToString()) is None


def test_what_is_not_plain_is_left_to_the_general_path(opened: tuple[Generation, Searcher]) -> None:
    fast = FastPath(opened[0], LIMITS)
    x_D = make_vectors(1)[0]
    plain = request_of(x_D)
    assert fast.answer(plain.SerializeToString()) is not None
    pinned, more, item = request_of(x_D), request_of(x_D), pb.SearchRequest(query=types_pb2.Query(item_id="item-00001"))
    pinned.snapshot = "snapshots/000001"
    more.options.min_score = -9.0
    values = pb.SearchRequest(query=types_pb2.Query(vector=types_pb2.Vector(values=x_D.tolist())))
    wide = request_of(np.ones(17, np.float32))
    content = pb.SearchRequest(query=types_pb2.Query(content=b"x" * 5000))
    for request in (pinned, more, item, values, wide, content, request_of(x_D, count=0), request_of(x_D, count=10_001)):
        assert fast.answer(request.SerializeToString()) is None
    for raw in (b"", b"\xff" * 40, plain.SerializeToString()[:-1], plain.SerializeToString() + b"\xff"):
        assert fast.answer(raw) is None
    for wrong in (np.nan, np.inf, 1e30):
        bad = x_D.copy()
        bad[3] = wrong
        assert fast.answer(request_of(bad).SerializeToString()) is None
    assert fast.answer(request_of(np.zeros(16, np.float32)).SerializeToString()) is None


def test_a_field_that_comes_twice_is_read_as_protobuf_reads_it(opened: tuple[Generation, Searcher]) -> None:
    fast = FastPath(opened[0], LIMITS)
    first, second = (request_of(x_D).SerializeToString() for x_D in make_vectors(2, seed=7))
    twice = first[: -len(b"\x12\x02\x08\x0a")] + second
    merged = pb.SearchRequest.FromString(twice)
    assert merged.query.vector.packed == make_vectors(2, seed=7)[1].tobytes()
    assert fast.answer(first) is not None
    for _ in range(2):
        assert fast.answer(twice) in (None, general_reply(opened, merged))


def test_shapes_are_not_remembered_without_end(opened: tuple[Generation, Searcher]) -> None:
    fast = FastPath(opened[0], LIMITS)
    x_D = make_vectors(1)[0]
    for count in range(1, 140):
        request = request_of(x_D, count=count)
        assert fast.answer(request.SerializeToString()) == general_reply(opened, request)


def test_an_exact_index_has_no_such_path(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    add_snapshot(store, make_vectors(50), kind="flat")
    fast = FastPath(open_generation(store, "snapshots/000001"), LIMITS)
    assert fast.answer(request_of(make_vectors(1)[0]).SerializeToString()) is None


def test_a_served_graph_answers_plain_calls_and_refuses_wrong_ones(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    x_ND = make_vectors(600)
    add_snapshot(store, x_ND, kind="hnsw")
    store.activate("000001")
    with running(store, config()) as (server, address), Client(address) as client:
        for row in (3, 77, 500):
            assert client.search(x_ND[row], neighbor_count=3).item_ids[0] == f"item-{row:05d}"
        with pytest.raises(InvalidVectorError):
            client.search(np.full(16, np.nan, np.float32))
        counts = server.place.board.counts("/vicinal.v1.SearchService/Search")
        assert counts.by_code[0] == 3
        assert counts.by_code[3] == 1
        assert server.admission.in_flight == 0
