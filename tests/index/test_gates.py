"""The gates before publishing: labels, duplicates and changed images, measured against what is served."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from index import commands, refresh_commands
from index.build import BuildConfig, build
from index.embed import embed
from index.gates import Gates
from index.label_quality import choose_items, compare, measure_accuracy
from index.publish import publish
from index.snapshot import Snapshot
from index.twins import duplicate_recall, twin_recall
from serving.labels.log import LabelLog
from serving.labels.records import Entry
from tests.index.made_vectors import AddEmbeddings, make_item
from vicinal.encoder import Encoder, save
from vicinal.errors import GateFailedError, InvalidConfigError, NoEncoderError
from vicinal.modalities.image import backbones
from vicinal.modalities.image.preprocess import Preprocessing
from vicinal.store import Store
from vicinal.types import F32Array, Metric

COUNT = 120


def of_two_classes(*, apart: float, seed: int = 0) -> F32Array:
    rng = np.random.default_rng(seed)
    x_ND = rng.standard_normal((COUNT, 8))
    x_ND[: COUNT // 2, 0] += apart
    x_ND[COUNT // 2 :, 0] -= apart
    return x_ND.astype(np.float32)


def label_all(store: Store) -> None:
    log = LabelLog(store.root / "labels" / "labels.db")
    log.create_set("sides")
    entries = [Entry(item_id=f"item-{n:06d}", label="left" if n < COUNT // 2 else "right") for n in range(COUNT)]
    log.put("sides", entries)
    log.close()


def serve(store: Store, add: AddEmbeddings, x_ND: F32Array, **gates: object) -> dict[str, object]:
    add(x_ND)
    build(store, config=BuildConfig(kind="flat", query_count=10))
    report = publish(store, gates=Gates(query_count=10, **gates))  # type: ignore[arg-type]
    return {check.name: check for check in report.checks}


def test_a_snapshot_that_knows_the_labels_worse_is_not_published(store: Store, add_embeddings: AddEmbeddings) -> None:
    label_all(store)
    first = serve(store, add_embeddings, of_two_classes(apart=5.0), knn_accuracy=0.9, few_shot_accuracy=0.9)
    assert {"knn_accuracy:sides", "few_shot_accuracy:sides"} <= set(first)
    same = serve(store, add_embeddings, of_two_classes(apart=5.0, seed=1))
    assert {"knn_drop:sides", "few_shot_drop:sides"} <= set(same)
    with pytest.raises(GateFailedError, match=r"knn_drop:sides is .* before, .* now, 120 items"):
        serve(store, add_embeddings, of_two_classes(apart=0.0))
    assert store.active().snapshot == "000002"
    checks = json.loads((store.root / "reports" / "publish-000003.json").read_text())["checks"]
    assert {check["name"] for check in checks if not check["passed"]} == {"knn_drop:sides", "few_shot_drop:sides"}
    assert "knn_drop:sides" not in serve(store, add_embeddings, of_two_classes(apart=0.0), max_label_drop=None)


def test_an_absolute_accuracy_can_be_demanded(store: Store, add_embeddings: AddEmbeddings) -> None:
    label_all(store)
    with pytest.raises(GateFailedError, match="knn_accuracy:sides"):
        serve(store, add_embeddings, of_two_classes(apart=0.0), knn_accuracy=0.9)


def test_few_labels_are_measured_as_far_as_they_go(store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(of_two_classes(apart=5.0))
    build(store, config=BuildConfig(query_count=10))
    names = [f"item-{n:06d}" for n in range(COUNT)]
    with Snapshot.open(store.path("snapshots", "latest")) as snapshot:
        assert choose_items(dict.fromkeys(names, "one class"), snapshot) == {}
        assert choose_items({"item-000001": "a", "item-000002": "b"}, snapshot) == {}
        lopsided = {name: "rare" if n < 3 else "left" if n < 60 else "right" for n, name in enumerate(names)}
        lopsided |= {"gone": "left", "item-000000": "once"}
        chosen = choose_items(lopsided, snapshot)
        assert set(chosen.values()) == {"rare", "left", "right"}
        assert "gone" not in chosen
        found = measure_accuracy(snapshot, chosen)
        assert found.knn_N.mean() > 0.9
        assert len(found.few_shot_N) == 0


def test_a_drop_is_paired() -> None:
    before_N, now_N = np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])
    drop = compare(before_N, now_N)
    assert (drop.before, drop.now) == (0.75, 0.5)
    assert drop.deviation == pytest.approx((now_N - before_N).std() / 2)


def test_duplicates_must_find_each_other(store: Store, add_embeddings: AddEmbeddings) -> None:
    x_ND = of_two_classes(apart=0.0)
    x_ND[10:20] = x_ND[:10]
    items = [make_item(n, digest=f"{n % 10 if n < 20 else n:064x}") for n in range(COUNT)]
    add_embeddings(x_ND, items=items)
    version = build(store, config=BuildConfig(query_count=10)).version
    with Snapshot.open(store.path("snapshots", version)) as snapshot:
        assert duplicate_recall(snapshot) == (1.0, 10)
    assert publish(store, gates=Gates(query_count=10)).checks[-1].note == "10 duplicates"
    x_ND[10:20] += 50
    x_ND[15:20] *= -1
    add_embeddings(x_ND, items=items)
    build(store, config=BuildConfig(query_count=10))
    with pytest.raises(GateFailedError, match="duplicate_recall"):
        publish(store, gates=Gates(query_count=10))


def test_equal_vectors_of_other_content_are_no_miss(store: Store, add_embeddings: AddEmbeddings) -> None:
    items = [make_item(n, digest=f"{3 if n == 70 else n:064x}") for n in range(COUNT)]
    add_embeddings(np.ones((COUNT, 4), np.float32), items=items)
    build(store, config=BuildConfig(query_count=10))
    with Snapshot.open(store.path("snapshots", "latest")) as snapshot:
        assert duplicate_recall(snapshot) == (1.0, 1)


@pytest.fixture
def with_images(store: Store, tmp_path: Path) -> Store:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        coarse = Image.fromarray(rng.integers(0, 255, (3, 3, 3), dtype=np.uint8))
        coarse.resize((24, 24), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    with store.stage("encoders") as staging:
        save(
            staging.path,
            model=backbones.create("pixels", channels=3, image_size=24),
            architecture={"name": "pixels", "image_size": 24},
            preprocessing=Preprocessing(channels=3, height=24, width=24),
            metric=Metric.COSINE,
            metadata={},
        )
        staging.commit()
    embed(store, [str(folder)])
    build(store, config=BuildConfig(query_count=10))
    return store


def test_changed_images_find_their_items(with_images: Store) -> None:
    report = publish(with_images, gates=Gates(query_count=10, twin_recall=0.9))
    assert [check.note for check in report.checks if check.name == "twin_recall"] == ["40 changed images"]
    with Snapshot.open(with_images.path("snapshots", "latest")) as snapshot:
        assert snapshot.encoder_path is not None
        encoder = Encoder.load(snapshot.encoder_path)
        assert twin_recall(snapshot, encoder, ["nowhere"]) == (1.0, 0)


def test_the_twin_gate_fails_where_it_cannot_be_measured(
    with_images: Store, tmp_path: Path, add_embeddings: AddEmbeddings
) -> None:
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(GateFailedError, match="no image could be read"):
        publish(with_images, gates=Gates(query_count=10, twin_recall=0.9))
    add_embeddings(of_two_classes(apart=1.0))
    build(with_images, config=BuildConfig(query_count=10))
    with pytest.raises(NoEncoderError):
        publish(with_images, gates=Gates(query_count=10, twin_recall=0.9))


def test_gates_are_options_of_the_command(store: Store, add_embeddings: AddEmbeddings) -> None:
    label_all(store)
    add_embeddings(of_two_classes(apart=5.0))
    build(store, config=BuildConfig(query_count=10))
    flags = ["--knn-accuracy", "0.5", "--few-shot-accuracy", "0.5", "--p99-ms", "1000", "--size-mib", "100"]
    arguments = ["-w", str(store.root), *flags, "--label-drop", "0.1"]
    result = CliRunner().invoke(commands.publish, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for words in ("knn_accuracy:sides", "few_shot_accuracy:sides", "p99_ms", "size_mib"):
        assert words in result.output
    for option in ("--twin-recall", "--duplicate-recall", "--shrink"):
        assert option in CliRunner().invoke(refresh_commands.refresh, ["--help"]).output


def test_impossible_gates_are_refused() -> None:
    with pytest.raises(InvalidConfigError, match="duplicate_recall"):
        Gates(duplicate_recall=1.5)
    with pytest.raises(InvalidConfigError, match="query_count"):
        Gates(query_count=1)
