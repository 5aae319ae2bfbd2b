"""The hot path: byte for byte what protobuf makes of the general path's message."""

import time
from pathlib import Path

import numpy as np
import pytest

from serving.config import LimitsConfig
from serving.context import Call
from serving.fast import FastPath
from serving.generation import Generation, open_generation
from serving.plain import is_nearly_plain, is_plain
from serving.queries import Queries
from serving.search import Searcher
from serving.wire_bytes import IdBytes, varint
from tests.serving.conftest import add_snapshot, make_items, make_vectors
from vicinal import item_table, items
from vicinal.codec import encode_vector, encode_vectors
from vicinal.errors import DimensionMismatchError, InvalidArgumentError, InvalidVectorError, ItemNotFoundError
from vicinal.store import Store
from vicinal.types import Metric
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2

LIMITS = LimitsConfig()
EFFORTS = [
    types_pb2.SearchOptions(neighbor_count=7, effort=12),
    types_pb2.SearchOptions(effort=300),
    types_pb2.SearchOptions(neighbor_count=7, target_recall=0.9),
    types_pb2.SearchOptions(target_recall=1.0),
]


def call() -> Call:
    return Call(method="/m", request_id="", client="", deadline_s=time.monotonic() + 60)


@pytest.fixture(scope="module", params=["flat", "hnsw"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pair(kind: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[FastPath, Searcher, Generation]:
    store = Store.create(tmp_path_factory.mktemp("fast") / "workspace")
    named = [*make_items(597), *(make_items(3, prefix="größe/" + "x" * 300))]
    add_snapshot(store, make_vectors(600), kind=kind, metric=Metric.COSINE, items=named)
    generation = open_generation(store, "snapshots/000001")
    return FastPath(generation, LIMITS), Searcher(LIMITS, Queries(LIMITS), store), generation


def requests() -> list[pb.SearchRequest]:
    vectors = [types_pb2.Query(vector=encode_vector(x_D)) for x_D in make_vectors(20, seed=4)]
    values = [types_pb2.Query(vector=types_pb2.Vector(values=make_vectors(1)[0].tolist()))]
    counts = [
        types_pb2.SearchOptions(),
        *(types_pb2.SearchOptions(neighbor_count=count) for count in (1, 7, 100, 600, 9999)),
        *EFFORTS,
    ]
    return [pb.SearchRequest(query=query, options=options) for query in (*vectors, *values) for options in counts]


def test_search_is_byte_for_byte_the_general_reply(pair: tuple[FastPath, Searcher, Generation]) -> None:
    fast, general, generation = pair
    for request in requests():
        assert is_nearly_plain(request.options)
        assert is_plain(request.options) == (request.options not in EFFORTS)
        wanted = general.search(generation, request, call())
        assert fast.search(request) == wanted.SerializeToString()


def test_search_by_item_is_the_general_reply(pair: tuple[FastPath, Searcher, Generation], kind: str) -> None:
    fast, general, generation = pair
    for name in ("item-00005", "item-00596", "größe/" + "x" * 300 + "-00002"):
        for count in (1, 10, 599, 600):
            request = pb.SearchRequest(
                query=types_pb2.Query(item_id=name), options=types_pb2.SearchOptions(neighbor_count=count)
            )
            wanted = general.search(generation, request, call())
            found = pb.SearchResponse.FromString(fast.search(request))
            if kind == "flat":
                assert found == wanted
            assert name not in found.neighbors.item_ids
            assert len(found.neighbors.item_ids) == min(count, 599)


def test_batches_are_byte_for_byte_the_general_reply(pair: tuple[FastPath, Searcher, Generation]) -> None:
    fast, general, generation = pair
    counts = [types_pb2.SearchOptions(neighbor_count=count) for count in (1, 10, 600, 1000)]
    for options in (*counts, *EFFORTS):
        x_QD = make_vectors(30, seed=8)
        request = pb.BatchSearchRequest(vectors=encode_vectors(x_QD), options=options)
        found, wanted_count, effort = fast.vectors(x_QD, request.options)
        wanted = general.batch(generation, request, call())
        assert fast.batch(found, neighbor_count=wanted_count, effort=effort) == wanted.SerializeToString()


@pytest.mark.parametrize("effort", [None, 40])
def test_many_at_once_are_byte_for_byte_those_alone(
    pair: tuple[FastPath, Searcher, Generation], effort: int | None
) -> None:
    fast, _, _ = pair
    queries = [types_pb2.Query(vector=encode_vector(x_D)) for x_D in make_vectors(20, seed=4)]
    options = types_pb2.SearchOptions(neighbor_count=5, effort=effort)
    alone = [pb.SearchResponse.FromString(fast.search(pb.SearchRequest(query=q, options=options))) for q in queries]
    together = [pb.SearchResponse.FromString(reply) for reply in fast.many(queries, options=options)]
    for one, other in zip(together, alone, strict=True):
        assert one.neighbors.item_ids == other.neighbors.item_ids
        np.testing.assert_allclose(one.neighbors.scores, other.neighbors.scores, rtol=1e-5, atol=1e-6)


def test_errors_are_those_of_the_general_path(pair: tuple[FastPath, Searcher, Generation]) -> None:
    fast, general, generation = pair
    vector = encode_vector(make_vectors(1)[0])
    wrong = [
        (InvalidArgumentError, types_pb2.Query(vector=vector), 0),
        (InvalidArgumentError, types_pb2.Query(vector=vector), 10_001),
        (DimensionMismatchError, types_pb2.Query(vector=encode_vector([1.0, 2.0])), 5),
        (InvalidVectorError, types_pb2.Query(vector=encode_vector([np.nan] * 16)), 5),
        (InvalidVectorError, types_pb2.Query(vector=encode_vector([0.0] * 16)), 5),
        (InvalidVectorError, types_pb2.Query(vector=types_pb2.Vector(packed=b"abc")), 5),
        (ItemNotFoundError, types_pb2.Query(item_id="nobody"), 5),
    ]
    for cls, query, count in wrong:
        request = pb.SearchRequest(query=query, options=types_pb2.SearchOptions(neighbor_count=count))
        with pytest.raises(cls):
            fast.search(request)
        with pytest.raises(cls):
            general.search(generation, request, call())
    for options in (
        types_pb2.SearchOptions(effort=0),
        types_pb2.SearchOptions(target_recall=1.5),
        types_pb2.SearchOptions(effort=10, target_recall=0.9),
    ):
        request = pb.SearchRequest(query=types_pb2.Query(vector=vector), options=options)
        with pytest.raises(InvalidArgumentError) as fast_error:
            fast.search(request)
        with pytest.raises(InvalidArgumentError) as general_error:
            general.search(generation, request, call())
        assert str(fast_error.value) == str(general_error.value)
    with pytest.raises(InvalidArgumentError, match="in one reply"):
        fast.vectors(make_vectors(1000), types_pb2.SearchOptions(neighbor_count=9999))


def test_options_that_say_more_are_not_plain() -> None:
    assert is_plain(types_pb2.SearchOptions())
    for more in (
        types_pb2.SearchOptions(effort=3),
        types_pb2.SearchOptions(neighbor_count=3, min_score=0.5),
        types_pb2.SearchOptions(include_query_item=True),
        types_pb2.SearchOptions(page_token="x"),
    ):
        assert not is_plain(more)


def test_ids_of_tables_of_several_batches_come_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (items, item_table):
        monkeypatch.setattr(module, "BATCH_ROWS", 7)
    monkeypatch.setattr("serving.wire_bytes.BATCH_ROWS", 7)
    items.write_items(tmp_path, make_items(40))
    table = item_table.ItemTable(tmp_path)
    rows_M = np.array([39, 0, 6, 7, 8, 21], dtype=np.int64)
    pieces = IdBytes(table).pieces(rows_M)
    assert [bytes(piece).decode() for piece in pieces[1::2]] == table.item_ids(rows_M)
    assert pieces[0] == b"\n\x0a"


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16_383, 16_384, 2**31])
def test_varints_are_those_of_protobuf(number: int) -> None:
    wanted = types_pb2.SnapshotRef(generation=number).SerializeToString()
    assert (b"\x18" + varint(number) if number else b"") == wanted
