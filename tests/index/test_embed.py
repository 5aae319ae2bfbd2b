"""The embed job, on real files, with a real encoder."""

import json
import shutil
import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from index.embed import EmbedOptions, EmbedReport, embed
from tests.support.corpora import add_encoder, fill, image_bytes
from vicinal import cli
from vicinal.corpora import folder as reader
from vicinal.corpus import CorpusItem, open_corpus
from vicinal.embeddings import Embeddings
from vicinal.encoder import Encoder
from vicinal.errors import FingerprintMismatchError, InvalidArgumentError, InvalidCorpusError
from vicinal.store import Store
from vicinal.types import Metric

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SMALL = EmbedOptions(shard_size=7, batch_size=4, now=NOW, workers=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "workspace")
    add_encoder(store)
    return store


def opened(store: Store, report: EmbedReport) -> Embeddings:
    assert report.version is not None
    return Embeddings.open(store.path("embeddings", report.version))


def test_every_item_has_the_vector_its_encoder_gives_it(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 30)

    report = embed(store, [str(folder)], options=SMALL)

    found = opened(store, report)
    encoder = Encoder.load(store.path("encoders", "latest"))
    with open_corpus(str(folder)) as corpus:
        items = list(corpus)
        wanted, errors = encoder.embed_contents([corpus.read(item) for item in items])
    assert errors == [None] * 30
    assert found.items.item_ids(range(30)) == [item.item_id for item in items]
    np.testing.assert_allclose(found.vectors_ND, wanted, atol=1e-6)
    assert (report.count, report.new_count, report.unique_count, report.quarantined_count) == (30, 30, 30, 0)
    assert (found.fingerprint, found.metric, found.encoder) == (encoder.fingerprint, Metric.COSINE, "000001")
    item = found.items.item(3)
    assert (item.added_at, item.source, item.label, item.path) == (NOW, "images", "class0", item.item_id)
    assert not list((store.root / "work").iterdir())


def test_passes_side_by_side_give_each_item_its_own_vector(store: Store, tmp_path: Path) -> None:
    version = add_encoder(store, "resnet18-w8", size=16)
    folder = fill(tmp_path / "images", 24)
    report = embed(store, [str(folder)], options=EmbedOptions(shard_size=10, batch_size=3))
    encoder = Encoder.load(store.path("encoders", version))
    with open_corpus(str(folder)) as corpus:
        wanted, _ = encoder.embed_contents([corpus.read(item) for item in corpus])
    np.testing.assert_allclose(opened(store, report).vectors_ND, wanted, atol=1e-5)


def test_identical_images_are_embedded_once_and_all_kept(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 20)
    for number in range(6):
        (folder / f"copy{number}.png").write_bytes(image_bytes(number % 3))

    report = embed(store, [str(folder)], options=SMALL)

    found = opened(store, report)
    assert (report.count, report.unique_count, report.embedded_count) == (26, 20, 20)
    original, copy = found.items.row("class0/0000.png"), found.items.row("copy3.png")
    assert found.items.item(original).digest == found.items.item(copy).digest
    assert np.array_equal(found.vectors_ND[original], found.vectors_ND[copy])


def vast_png() -> bytes:
    """Returns a true PNG of 30,000 x 30,000 pixels, 1 bit each."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = zlib.compress(bytes(30_000 * (1 + 30_000 // 8)), 1)
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def test_what_cannot_be_embedded_is_quarantined_with_its_reason(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 10)
    (folder / "text.jpg").write_text("this is no image")
    (folder / "cut.png").write_bytes(image_bytes(99, size=64)[:-900])
    (folder / "empty.png").write_bytes(b"")
    (folder / "vast.png").write_bytes(vast_png())

    report = embed(store, [str(folder)], options=SMALL)

    found = opened(store, report)
    entries = {entry.item_id: entry for entry in found.quarantine()}
    assert set(entries) == {"text.jpg", "cut.png", "empty.png", "vast.png"}
    assert all(entry.reason == "INVALID_IMAGE" and len(entry.message) > 10 for entry in entries.values())
    assert (report.count, report.quarantined_count) == (10, 4)
    assert found.manifest.body["quarantine"] == {"INVALID_IMAGE": 4}


def test_an_image_without_direction_is_quarantined_under_cosine(store: Store, tmp_path: Path) -> None:
    add_encoder(store, mean=0.0)
    folder = fill(tmp_path / "images", 10)
    Image.new("RGB", (16, 16)).save(folder / "black.png")

    report = embed(store, [str(folder)], options=SMALL)

    entries = list(opened(store, report).quarantine())
    assert [(entry.item_id, entry.reason) for entry in entries] == [("black.png", "NO_DIRECTION")]
    assert report.count == 10


def test_a_base_gives_its_vectors_by_content_and_only_the_new_is_embedded(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 12)
    first = embed(store, [str(folder)], options=SMALL)
    fill(folder, 3, start=100)
    (folder / "class0" / "0000.png").rename(folder / "moved.png")
    (folder / "class1" / "0001.png").write_bytes(image_bytes(500))
    (folder / "class0" / "0002.png").unlink()
    later = EmbedOptions(shard_size=7, batch_size=4, now=datetime(2027, 1, 1, tzinfo=UTC))

    report = embed(store, [str(folder)], base=first.version, options=later)

    old, new = opened(store, first), opened(store, report)
    assert (report.count, report.new_count, report.reused_count, report.embedded_count) == (14, 4, 10, 4)
    assert np.array_equal(new.vectors_ND[new.items.row("moved.png")], old.vectors_ND[old.items.row("class0/0000.png")])
    assert new.items.item(new.items.row("class1/0003.png")).added_at == NOW
    assert new.items.item(new.items.row("class1/0001.png")).added_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert new.items.find("class0/0002.png") is None
    assert new.manifest.body["base"] == first.version


def test_items_unchanged_by_their_stamps_are_not_even_read(store: Store, tmp_path: Path, monkeypatch) -> None:
    folder = fill(tmp_path / "images", 12)
    embed(store, [str(folder)], options=SMALL)
    read = []
    original = reader.Reader.read

    def spy(self: reader.Reader, item: CorpusItem) -> bytes:
        read.append(item.item_id)
        return original(self, item)

    monkeypatch.setattr(reader.Reader, "read", spy)

    report = embed(store, [str(folder)], base="auto", options=SMALL)
    assert (report.reused_count, report.new_count, read) == (12, 0, [])

    reread = EmbedOptions(shard_size=7, batch_size=4, trust_stamps=False)
    report = embed(store, [str(folder)], base="auto", options=reread)
    assert (report.reused_count, len(read)) == (12, 12)


def test_a_base_of_another_encoder_is_refused_and_auto_passes_it_by(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 5)
    first = embed(store, [str(folder)], options=SMALL)
    add_encoder(store, size=6)
    with pytest.raises(FingerprintMismatchError, match="were made by an encoder"):
        embed(store, [str(folder)], base=first.version)
    assert embed(store, [str(folder)], base="auto").reused_count == 0


def test_a_corpus_in_which_nothing_can_be_embedded_makes_no_version(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(InvalidCorpusError, match=r"nothing.*'a.jpg'"):
        embed(store, [str(tmp_path)])
    assert store.versions("embeddings") == []


def test_two_corpora_with_the_same_id_are_told_apart_by_name(store: Store, tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", 3), fill(tmp_path / "two", 3, start=0)
    with pytest.raises(InvalidCorpusError, match=r"a=.*one b=.*two"):
        embed(store, [str(one), str(two)])
    report = embed(store, [f"a={one}", f"b={two}"])
    assert opened(store, report).items.item_ids([0, 3]) == ["a/class0/0000.png", "b/class0/0000.png"]
    assert report.unique_count == 3


def test_metadata_of_a_manifest_become_typed_columns_whatever_their_names(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 3)
    rows = [
        {"path": "class0/0000.png", "source": "web", "price": 1, "half\ud800": "x\udfff", "label": "\ud800"},
        {"path": "class1/0001.png", "price": 2.5, "item_id": "\ud800", "at": "2026-01-01T00:00:00Z"},
        {"path": "class0/\ud800.png"},
    ]
    (folder / "items.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    report = embed(store, [str(folder / "items.jsonl")], options=SMALL)

    table = opened(store, report).items
    assert table.metadata_columns == {
        "at": "time", "corpus_source": "string", "half%ED%A0%80": "string", "price": "float"
    }  # fmt: skip
    assert table.item(0).metadata["corpus_source"] == "web"
    assert table.item(1).metadata["at"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert table.item_ids([0, 1]) == ["class0/0000.png", "%ED%A0%80"]
    assert report.quarantined_count == 1


def test_metadata_of_too_many_columns_are_refused(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 1)
    row = {"path": "class0/0000.png", **{f"c{n}": n for n in range(1001)}}
    (folder / "items.jsonl").write_text(json.dumps(row))
    with pytest.raises(InvalidCorpusError, match="more than 1000 columns"):
        embed(store, [str(folder / "items.jsonl")])


def test_wrong_options_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="shard_size"):
        EmbedOptions(shard_size=0)


def test_the_command_prints_what_it_did(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 5)
    (folder / "bad.jpg").write_text("no")
    run = CliRunner()
    command = ["embed", str(folder), "-w", str(store.root)]

    result = run.invoke(cli.cli, [*command, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["seconds"] >= 0
    assert {key: values[key] for key in ("embeddings", "count", "new_count", "reused_count", "quarantined_count")} == {
        "embeddings": "000001",
        "count": 5,
        "new_count": 5,
        "reused_count": 0,
        "quarantined_count": 1,
    }

    result = run.invoke(cli.cli, command, catch_exceptions=False)
    assert "5 items, 0 new, 5 reused" in result.stdout
    assert "quarantine.jsonl" in result.stdout
    shutil.rmtree(folder)
