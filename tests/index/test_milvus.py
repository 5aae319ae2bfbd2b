"""The Milvus engine beside its contract (test_kinds_contract.py): alias, publishing, losses, the real server."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from index.build import BuildConfig, build
from index.collect import collect
from index.engines import milvus, milvus_place
from index.gates import Gates
from index.kinds.milvus import KIND, Params
from index.publish import publish, rollback
from index.snapshot import Snapshot
from tests.index import milvus_server
from tests.index.made_vectors import AddEmbeddings, clustered
from vicinal.errors import CorruptArtifactError, FailedPreconditionError, InvalidArgumentError, UnavailableError
from vicinal.store import Store

COUNT, DIMENSION = 400, 8
GATES = Gates(query_count=10)


def build_snapshot(store: Store, **params: object) -> Path:
    report = build(store, config=BuildConfig(kind="milvus", params=params, query_count=20, recall=0.9))
    return store.path("snapshots", report.version)


def collections(uri: str) -> list[str]:
    with milvus.connected(uri) as client:
        return sorted(client.list_collections())


def test_the_alias_follows_what_is_published(milvus_uri: str, store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(COUNT, DIMENSION))
    first = build_snapshot(store, alias="test_alias")
    publish(store, gates=GATES)
    add_embeddings(clustered(COUNT, DIMENSION, seed=1))
    second = build_snapshot(store, alias="test_alias")

    def pointed() -> str:
        with milvus.connected(milvus_uri) as client:
            return str(client.describe_alias("test_alias")["collection_name"])

    assert pointed() == milvus_place.read_place(first).collection
    publish(store, gates=GATES)
    assert pointed() == milvus_place.read_place(second).collection
    x_QD = clustered(3, DIMENSION, seed=1)
    with Snapshot.open(second) as snapshot, milvus.connected(milvus_uri) as client:
        # Whoever has only Milvus finds the items by their ids.
        found = client.search("test_alias", data=list(x_QD), limit=1, output_fields=["item_id"])
        rows = snapshot.exact(x_QD, neighbor_count=1).rows_QK[:, 0]
        assert [hits[0]["entity"]["item_id"] for hits in found] == snapshot.items.item_ids(rows)
    assert rollback(store).snapshot == "000001"
    assert pointed() == milvus_place.read_place(first).collection


def test_collections_go_with_their_snapshots(milvus_uri: str, store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(COUNT, DIMENSION))
    places = [milvus_place.read_place(build_snapshot(store)) for _ in range(2)]
    assert collect(store, keep=1) == ["snapshots/000001", f"milvus/{places[0].collection}"]
    left = collections(milvus_uri)
    assert (places[0].collection in left, places[1].collection in left) == (False, True)
    milvus.drop_collection(places[0])


@pytest.mark.parametrize("index_type", ["IVF_FLAT", "IVF_SQ8"])
def test_inverted_lists_are_built_too(
    milvus_uri: str, store: Store, add_embeddings: AddEmbeddings, index_type: str
) -> None:
    add_embeddings(clustered(COUNT, DIMENSION))
    path = build_snapshot(store, index_type=index_type, list_count=8, shortlist=3)
    with Snapshot.open(path) as snapshot:
        assert snapshot.params["list_count"] == 8
        assert snapshot.curve[-1].recall > 0.95
    params = KIND.resolve(Params(index_type=index_type), count=10_000, dimension=64)  # type: ignore[arg-type]
    assert KIND.bytes_per_vector(params, dimension=64) == {"IVF_FLAT": 264, "IVF_SQ8": 72}[index_type]


def test_a_collection_that_is_lost_is_named(milvus_uri: str, store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(COUNT, DIMENSION))
    path = build_snapshot(store)
    place = milvus_place.read_place(path)
    milvus.drop_collection(place)
    with pytest.raises(CorruptArtifactError, match=f"{place.collection}.*holds 0 vectors.*build"):
        Snapshot.open(path)
    (path / milvus_place.PLACE_FILE).write_text("{}")
    with pytest.raises(CorruptArtifactError, match=r"milvus\.json"):
        milvus_place.read_place(path)
    (path / milvus_place.PLACE_FILE).write_text(json.dumps({"format_version": 2, **dict.fromkeys(
        ("uri", "collection", "count", "alias", "effort_name"), ""
    )}))  # fmt: skip
    with pytest.raises(CorruptArtifactError, match="format_version 2"):
        milvus_place.read_place(path)
    assert milvus_place.places_of({"000001": path, "000002": store.root}) == {}


def test_a_failed_build_leaves_no_collection(
    milvus_uri: str, store: Store, add_embeddings: AddEmbeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_embeddings(clustered(COUNT, DIMENSION))
    before = collections(milvus_uri)
    monkeypatch.setattr(milvus, "metric_name", lambda _: "NO_SUCH_METRIC")
    with pytest.raises(UnavailableError, match="NO_SUCH_METRIC"):
        build_snapshot(store)
    assert collections(milvus_uri) == before
    assert store.versions("snapshots") == []


def test_many_neighbors_come_from_exact_search(
    milvus_uri: str, store: Store, add_embeddings: AddEmbeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_embeddings(clustered(COUNT, DIMENSION))
    path = build_snapshot(store)
    monkeypatch.setattr(milvus, "MOST_NEIGHBORS", 20)
    with Snapshot.open(path) as snapshot:
        x_QD = clustered(3, DIMENSION, seed=2)
        found = snapshot.search(x_QD, neighbor_count=50, effort=64)
        np.testing.assert_array_equal(found.rows_QK, snapshot.exact(x_QD, neighbor_count=50).rows_QK)


def test_a_server_that_is_gone_is_named(
    store: Store, add_embeddings: AddEmbeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = milvus_server.lite_command()
    if command is None or importlib.util.find_spec("pymilvus") is None:
        pytest.skip("needs pymilvus, and milvus-lite in an environment of its own: make .venv-milvus")
    monkeypatch.setattr(milvus, "_TIMEOUT_S", 1.0)
    monkeypatch.delenv(milvus_place.URI_VARIABLE, raising=False)
    add_embeddings(clustered(COUNT, DIMENSION))
    with contextlib.ExitStack() as stack:
        uri = stack.enter_context(milvus_server.lite_server(command, tmp_path))
        path = build_snapshot(store, uri=uri)
        with Snapshot.open(path) as snapshot:
            stack.close()
            with pytest.raises(UnavailableError, match=uri):
                snapshot.search(clustered(1, DIMENSION), neighbor_count=3)
            assert snapshot.exact(clustered(1, DIMENSION), neighbor_count=3).counts_Q.tolist() == [3]


def test_an_address_is_needed_and_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(milvus_place.URI_VARIABLE, raising=False)
    with pytest.raises(InvalidArgumentError, match="VICINAL_MILVUS_URI"):
        milvus_place.resolve_uri("")
    monkeypatch.setenv(milvus_place.URI_VARIABLE, "http://127.0.0.1:1")
    assert milvus_place.resolve_uri("http://elsewhere") == "http://127.0.0.1:1"
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 failed"):
        milvus.connect("http://127.0.0.1:1", timeout_s=0.5)


def test_without_pymilvus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(FailedPreconditionError, match=r"vicinal\[milvus\]"):
        milvus.connect("http://127.0.0.1:1")


def why_no_real_server() -> str:
    if not (milvus_server.environment() / "bin" / "milvus-server").is_file():
        return "needs Milvus in an environment of its own: make .venv-milvus"
    if importlib.util.find_spec("pymilvus") is None:
        return "needs pymilvus"
    words = ["unshare", "--net", "--map-root-user", "ip", "link", "set", "lo", "up"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        return "needs unshare and ip: the server listens on every interface, so it gets a network of its own"
    done = subprocess.run(words, capture_output=True, check=False)
    return f"this machine gives no network namespace: {done.stderr.decode().strip()}" if done.returncode else ""


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_the_real_server_keeps_the_contract(tmp_path: Path) -> None:
    reason = why_no_real_server()
    if reason:
        pytest.skip(reason)
    inside = [
        sys.executable,
        "-m",
        "tests.index.milvus_in_namespace",
        str(tmp_path),
        str(Path("/proc/self/ns/net").readlink()),
    ]
    words = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *inside]
    done = subprocess.run(words, cwd=milvus_server.ROOT, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
