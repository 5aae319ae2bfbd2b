"""Metrics, access log and recall probe: what an operator sees."""

import asyncio
import io
import json
import time
import urllib.request
from pathlib import Path

import pytest

from index.snapshot import Snapshot
from serving.access_log import AccessLog
from serving.board import BOUNDS_S, Board
from serving.context import Call
from serving.metrics import start_metrics
from serving.probe import probe_recall
from serving.server import method_names
from tests.serving.conftest import add_snapshot, config, make_vectors, running
from vicinal.client import AsyncClient, Client
from vicinal.errors import ItemNotFoundError, UnavailableError
from vicinal.store import Store

SEARCH = "/vicinal.v1.SearchService/Search"


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        return str(reply.read().decode())


def test_metrics_tell_calls_latency_snapshot_and_recall(vector_store: Store) -> None:
    with running(vector_store, config("observe.probe_interval_s=0.05")) as (server, address), Client(address) as client:
        port = start_metrics(server.place.board, vector_store, host="127.0.0.1", port=0)
        for _ in range(3):
            client.search("item-00001")
        with pytest.raises(ItemNotFoundError):
            client.search("nobody")
        deadline = time.monotonic() + 10
        while not server.place.slab["recall"] and time.monotonic() < deadline:
            time.sleep(0.02)
        text = scrape(port)
    assert f'vicinal_calls_total{{code="OK",method="{SEARCH}"}} 3.0' in text
    assert f'vicinal_calls_total{{code="NOT_FOUND",method="{SEARCH}"}} 1.0' in text
    assert f'vicinal_call_latency_seconds_count{{method="{SEARCH}"}} 4.0' in text
    assert f'vicinal_call_latency_seconds_bucket{{le="+Inf",method="{SEARCH}"}} 4.0' in text
    assert 'vicinal_recall_probe{worker="0"} 1.0' in text
    assert 'snapshot="snapshots/000001"' in text
    assert 'vicinal_swaps_total{worker="0"} 1.0' in text
    resident = next(line for line in text.splitlines() if line.startswith("vicinal_worker_resident_bytes"))
    assert float(resident.split()[1]) > 1e7


def test_latency_includes_the_wait_for_a_turn(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    x_ND = make_vectors(200)
    add_snapshot(store, x_ND, kind="hnsw")
    store.activate("000001")

    async def ask(address: str) -> float:
        async with AsyncClient(address) as client:
            await client.search(x_ND[0])
            start_s = time.monotonic()
            await asyncio.gather(*(client.search(x_D) for x_D in x_ND))
            return time.monotonic() - start_s

    log = io.StringIO()
    with running(store, config(), observers=(AccessLog(log),)) as (server, address):
        seconds = asyncio.run(ask(address))
        total_s = server.place.board.counts(SEARCH).seconds
    # They are answered one after the other: without their waiting they take less than the whole.
    assert total_s > 2 * seconds
    waited_ms = [json.loads(line)["ms"] for line in log.getvalue().splitlines()]
    assert sum(waited_ms) / 1000 > 2 * seconds


def test_a_metrics_port_that_is_taken_is_one_clear_error(vector_store: Store) -> None:
    board = Board(1, method_names())
    port = start_metrics(board, vector_store, host="127.0.0.1", port=0)
    with pytest.raises(UnavailableError, match=r"observe\.metrics_port"):
        start_metrics(board, vector_store, host="127.0.0.1", port=port)


def test_the_board_adds_up_its_workers() -> None:
    board = Board(3, ["/a", "/b"])
    for number, slab in enumerate(board.slabs()):
        slab["live"] = number != 1
        slab["in_flight"] = 10
        for seconds in (BOUNDS_S[0], BOUNDS_S[0] * 1.01, 1e9):
            slab.count("/b", 5, seconds)
        slab.count("/unknown", 0, 1.0)
    counts = board.counts("/b")
    assert counts.by_code[5] == 9
    assert (counts.buckets[0], counts.buckets[1], counts.buckets[-1]) == (3, 3, 3)
    assert counts.seconds == pytest.approx(3e9, rel=1e-6)
    assert sum(board.counts("/a").by_code) == 0
    assert board.total("in_flight") == 20


def test_the_access_log_is_one_json_line_a_call(vector_store: Store) -> None:
    stream = io.StringIO()
    with running(vector_store, config(), observers=(AccessLog(stream),)) as (_, address), Client(address) as client:
        client.search("item-00001")
        with pytest.raises(ItemNotFoundError):
            client.search("nobody")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["code"] for line in lines] == ["OK", "NOT_FOUND"]
    assert lines[0]["method"] == SEARCH
    assert lines[0]["client"].startswith("ipv4:127.0.0.1")
    assert lines[0]["request_id"] != lines[1]["request_id"]
    assert lines[0]["ms"] > 0


def test_the_probe_measures_recall(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add_snapshot(store, make_vectors(2000), kind="hnsw")
    with Snapshot.open(store.path("snapshots", "1")) as snapshot:
        assert probe_recall(snapshot, query_count=20) > 0.9
        monkeypatch.setattr(snapshot, "search", lambda x_QD, **options: snapshot.exact(x_QD[::-1], **options))
        assert probe_recall(snapshot, query_count=50) < 0.9


def test_a_call_that_came_with_notes_shows_them() -> None:
    stream = io.StringIO()
    call = Call(method="/m", request_id="r", client="c", deadline_s=0, notes={"neighbor_count": 7})
    AccessLog(stream).observe(call, 0, 0.001)
    assert json.loads(stream.getvalue())["neighbor_count"] == 7
