"""Corpora behind URLs: a real server that speaks S3, and fsspec's own stores."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest

from index.embed import EmbedOptions, embed
from tests.support.corpora import add_encoder, fill, image_bytes
from vicinal.corpora import url as url_reader
from vicinal.corpus import MAX_ITEM_BYTES, Quarantined, open_corpus
from vicinal.embeddings import Embeddings
from vicinal.errors import InvalidCorpusError, InvalidImageError, UnavailableError
from vicinal.store import Store

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Starts a server that speaks S3 on loopback; yields its address."""
    pytest.importorskip("moto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(10)


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    fs, _ = fsspec.url_to_fs(f"s3://{name}", skip_instance_cache=True)
    fs.mkdir(name)
    for number in range(12):
        fs.pipe_file(f"{name}/photos/class{number % 2}/{number:04d}.png", image_bytes(number))
    fs.pipe_file(f"{name}/photos/readme.txt", b"no image")
    yield name
    fs.rm(name, recursive=True)


@pytest.mark.e2e
def test_a_bucket_is_a_corpus_like_a_folder_of_the_same_files(bucket: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 12)
    with open_corpus(str(folder)) as local, open_corpus(f"s3://{bucket}/photos") as remote:
        wanted = [(item.item_id, item.label, local.read(item)) for item in local]
        items = list(remote)
        assert [(item.item_id, item.label, remote.read(item)) for item in items] == wanted
        assert all(item.stamp for item in items)
    with open_corpus(f"s3://{bucket}/photos?under=class1&limit=2") as remote:
        assert [item.item_id for item in remote] == ["class1/0001.png", "class1/0003.png"]


@pytest.mark.e2e
def test_a_bucket_is_embedded_and_only_changed_objects_are_read_again(bucket: str, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    add_encoder(store)
    options = EmbedOptions(shard_size=5)
    first = embed(store, [f"s3://{bucket}/photos"], options=options)
    assert (first.count, first.quarantined_count) == (12, 0)
    local = embed(store, [str(fill(tmp_path / "photos", 12))], options=options)
    x_ND, y_ND = (Embeddings.open(store.path("embeddings", str(r.version))).vectors_ND for r in (first, local))
    assert x_ND.tobytes() == y_ND.tobytes()
    fs, _ = fsspec.url_to_fs(f"s3://{bucket}", skip_instance_cache=True)
    fs.pipe_file(f"{bucket}/photos/class0/0000.png", image_bytes(77))
    fs.pipe_file(f"{bucket}/photos/class0/new.png", image_bytes(78))
    fs.rm(f"{bucket}/photos/class0/0002.png")

    second = embed(store, [f"s3://{bucket}/photos"], base=first.version, options=options)

    assert (second.count, second.new_count, second.reused_count) == (12, 2, 10)


@pytest.mark.e2e
def test_what_is_not_there_or_went_away_is_said(bucket: str) -> None:
    with pytest.raises(InvalidCorpusError, match="no folder at"):
        open_corpus(f"s3://{bucket}/nothing")
    with open_corpus(f"s3://{bucket}/photos") as corpus:
        item = next(iter(corpus))
        fs, _ = fsspec.url_to_fs(f"s3://{bucket}", skip_instance_cache=True)
        fs.rm(f"{bucket}/photos/{item.path}")
        with pytest.raises(InvalidImageError, match="FileNotFoundError"):
            corpus.read(item)


@pytest.mark.e2e
def test_a_store_that_does_not_answer_ends_the_job_and_quarantines_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_reader, "_WAITS_S", (0.01,))
    store = Store.create(tmp_path / "workspace")
    add_encoder(store)
    reads = 0
    original = url_reader.Reader.read

    def dies(self: url_reader.Reader, item: object) -> bytes:
        nonlocal reads
        reads += 1
        if reads > 6:
            self._fs.cat_file = lambda _: (_ for _ in ()).throw(ConnectionError("gone"))
        return original(self, item)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(url_reader.Reader, "read", dies)
        with pytest.raises(UnavailableError, match="gone; when it is back"):
            embed(store, [f"s3://{bucket}/photos"], options=EmbedOptions(shard_size=3, workers=1))
    assert store.versions("embeddings") == []
    report = embed(store, [f"s3://{bucket}/photos"], options=EmbedOptions(shard_size=3, workers=1))
    assert (report.count, report.quarantined_count) == (12, 0)


def test_names_that_do_not_print_and_large_objects_behind_a_url(tmp_path: Path) -> None:
    (tmp_path / "a\nb.png").write_bytes(image_bytes(1))
    with (tmp_path / "huge.png").open("wb") as stream:
        stream.truncate(MAX_ITEM_BYTES + 1)
    with open_corpus(f"file://{tmp_path}") as corpus:
        entries = list(corpus.scan())
        assert isinstance(entries[1], Quarantined)
        assert entries[1].reason == "TOO_LARGE"
        (item,) = corpus
        assert item.item_id == "a%0Ab.png"
        assert corpus.read(item) == image_bytes(1)
        os.truncate(tmp_path / "a\nb.png", MAX_ITEM_BYTES + 5)
        with pytest.raises(InvalidImageError, match="at most"):
            corpus.read(item)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nosuch://bucket/x", "cannot be opened"),
        ("gs://bucket/x", "needs a package more"),
        ("memory://none", "no folder at"),
    ],
)
def test_a_url_that_cannot_be_opened_says_why(spec: str, message: str) -> None:
    with pytest.raises(InvalidCorpusError, match=message):
        open_corpus(spec)


def test_a_store_without_versions_gives_no_stamps() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/a.png", image_bytes(1))
    try:
        with open_corpus("memory://corpus") as corpus:
            (item,) = corpus
            assert corpus.read(item) == image_bytes(1)
    finally:
        memory.rm("/corpus", recursive=True)
