"""The cache of decoded images: bounded, interruptible, and of whatever people have in a folder."""

import json
import multiprocessing
import os
import sys
import threading
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer import cache
from trainer import pretrain as stage
from trainer.cache import open_or_build, sample_shape
from trainer.config import BudgetConfig, PretrainConfig
from vicinal.corpus import open_corpus
from vicinal.errors import InvalidCorpusError, StorageError
from vicinal.modalities.image import Preprocessing
from vicinal.store import Store

SIZE = Preprocessing(channels=1, height=8, width=8)


def quiet(*_):
    return None


def picture(path, value, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


@pytest.fixture
def numbered(tmp_path):
    """A folder of 50 images, image N of the gray value N; three of them bad."""
    folder = tmp_path / "images"
    for number in range(50):
        picture(folder / f"class{number % 2}" / f"{number:03d}.png", number)
    for number in (0, 7, 49):
        (folder / f"class{number % 2}" / f"{number:03d}.png").write_bytes(b"bad")
    return folder


def values(built):
    return sorted(int(x_CHW[0, 0, 0]) for x_CHW in built.x_NCHW)


def test_a_cache_holds_what_can_be_decoded(numbered, tmp_path):
    built = open_or_build(tmp_path / "c", str(numbered), SIZE, progress=quiet)
    assert values(built) == sorted(set(range(50)) - {0, 7, 49})
    assert built.x_NCHW.shape == (47, 1, 8, 8)
    assert {item_id.rsplit("/", 1)[1] for item_id, _ in built.quarantine} == {"000.png", "007.png", "049.png"}
    assert [built.classes[label] for label in built.labels_N] == [
        f"class{x_CHW[0, 0, 0] % 2}" for x_CHW in built.x_NCHW
    ]
    (place,) = (path for path in (tmp_path / "c").iterdir() if path.is_dir())
    assert {path.name for path in place.iterdir()} == {"images.npy", "cache.json"}
    again = open_or_build(tmp_path / "c", str(numbered), SIZE, progress=lambda *_: pytest.fail("decoded again"))
    assert again.digest == built.digest


@pytest.mark.parametrize("damage", ["none", "progress", "array"])
def test_an_interrupted_build_goes_on_or_begins_anew(numbered, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(cache, "_CHUNK", 4)
    monkeypatch.setattr(cache, "_SAVE_EVERY", 2)
    seen = []

    def interrupt(word, done, total):
        seen.append(done)
        if done >= 22:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_or_build(tmp_path / "c", str(numbered), SIZE, progress=interrupt)
    (place,) = (path for path in (tmp_path / "c").iterdir() if path.is_dir())
    assert not (place / "cache.json").exists()
    if damage == "progress":
        (place / "progress.json").write_text('{"items": 16')
    if damage == "array":
        (place / "all.npy").write_bytes(b"short")
    seen.clear()
    built = open_or_build(tmp_path / "c", str(numbered), SIZE, progress=lambda word, done, total: seen.append(done))
    assert seen[0] == (28 if damage == "none" else 4)
    assert values(built) == sorted(set(range(50)) - {0, 7, 49})
    assert len(built.quarantine) == 3
    assert {path.name for path in place.iterdir()} == {"images.npy", "cache.json"}


def test_two_builders_make_one_cache(numbered, tmp_path):
    built = []
    threads = [
        threading.Thread(
            target=lambda: built.append(open_or_build(tmp_path / "c", str(numbered), SIZE, progress=quiet))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(built[0]) == values(built[1])


def test_a_full_disk_is_said_before_anything_is_decoded(numbered, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="no space left"):
        open_or_build(tmp_path / "c", str(numbered), SIZE, progress=lambda *_: pytest.fail("decoded"))


def test_a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidCorpusError):
        open_or_build(tmp_path / "c", str(tmp_path / "empty"), SIZE, progress=quiet)


def tiny(**changes):
    settled: dict[str, Any] = {"precision": "float32", "channels_last": True, "threads": 1, "workers": 1}
    return PretrainConfig(budget=BudgetConfig(steps=2), encoder="resnet10-w8", batch_size=16, **settled, **changes)


def test_images_of_fifty_sizes_are_trained_on(tmp_path):
    random = np.random.default_rng(0)
    for number in range(50):
        size = (17 + 3 * number, 200 - 3 * number)
        path = tmp_path / "sizes" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    channels, side = sample_shape(str(tmp_path / "sizes"))
    assert channels == 3
    assert 16 <= side <= 96
    assert side % 4 == 0
    result = stage.pretrain(Store.create(tmp_path / "w"), str(tmp_path / "sizes"), tiny())
    assert (result.images, result.quarantined) == (50, 0)


def test_one_image_is_too_few_and_says_so(tmp_path):
    picture(tmp_path / "one" / "a.png", 9, size=(20, 20))
    with pytest.raises(InvalidCorpusError, match=r"has 1 images.*needs at least 2"):
        stage.pretrain(Store.create(tmp_path / "w"), str(tmp_path / "one"), tiny())


def test_fewer_images_than_a_batch_make_a_smaller_batch(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "few").mkdir()
    for number in range(5):
        Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / "few" / f"{number}.png")
    result = stage.pretrain(Store.create(tmp_path / "w"), str(tmp_path / "few"), tiny())
    assert result.state["views_seen"] == 2 * 4 * 5


def linked(folder, *, count, originals=20):
    for number in range(originals):
        picture(folder / "originals" / f"{number}.png", number)
    (folder / "links").mkdir()
    for number in range(count):
        (folder / "links" / f"{number:07d}.png").symlink_to(folder / "originals" / f"{number % originals}.png")
    return folder / "links"


def surveyed(few, many):
    """Surveys a large corpus; returns its items, the size of its sample, and the bytes kept and at the peak."""
    # pathlib interns names, and the interpreter's table of them grows in leaps: let it have grown.
    names = [sys.intern(f"a name of nothing {number}") for number in range(500_000)]
    with open_corpus(few) as corpus:  # what is imported late is not the corpus's
        cache._survey(corpus, SIZE)
        cache._spread(corpus)
    with open_corpus(many) as corpus:
        tracemalloc.start()
        survey = cache._survey(corpus, SIZE)
        spread = len(cache._spread(corpus))
        kept, peak = tracemalloc.get_traced_memory()
    assert len(names) == 500_000
    return survey.count, spread, kept, peak


def test_very_many_links_take_bounded_memory(tmp_path):
    links = linked(tmp_path, count=10_000)
    # In a process of its own: threads that other tests left behind take memory too.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        count, spread, kept, peak = pool.submit(surveyed, str(tmp_path / "originals"), str(links)).result()
    assert count == 10_000
    assert spread >= 64
    # The names of one folder are sorted, so they are all in memory at once; nothing is kept of an item.
    assert peak < 10_000 * 300, f"{peak / 2**20:.0f} MiB"
    assert kept < 1 << 20, f"{kept / 2**20:.1f} MiB"
    built = open_or_build(tmp_path / "c", str(links), SIZE, progress=quiet)
    assert built.x_NCHW.shape == (10_000, 1, 8, 8)
    assert sorted(set(values(built))) == list(range(20))


def test_loops_and_dead_links_are_quarantined(tmp_path):
    picture(tmp_path / "images" / "a.png", 3)
    picture(tmp_path / "images" / "b.png", 4)
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "self.png").symlink_to("self.png")
    (tmp_path / "images" / "dead.png").symlink_to("nowhere.png")
    for spec in (str(tmp_path / "images"), f"{tmp_path / 'images'}?links=follow"):
        built = open_or_build(tmp_path / "c", spec, SIZE, progress=quiet)
        assert values(built) == [3, 4]
        bad = {item_id for item_id, _ in built.quarantine}
        assert {"self.png", "dead.png"} <= bad
    facts = [json.loads(path.read_text()) for path in (tmp_path / "c").glob("*/cache.json")]
    assert all(all(reason for _, reason in one["quarantine"]) for one in facts)
