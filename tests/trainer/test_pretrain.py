"""Whole runs on small drawings: they learn, resume bit for bit, stop with a reason, and export."""

import json
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from trainer import pretrain as stage
from trainer.commands import evaluate_encoder
from trainer.commands import export as export_command
from trainer.commands import pretrain as pretrain_command
from trainer.config import BudgetConfig, PretrainConfig
from trainer.export import export, find_run
from trainer.watch import Watch
from vicinal.encoder import Encoder
from vicinal.errors import (
    ArtifactNotFoundError,
    CorruptArtifactError,
    InvalidArgumentError,
    InvalidConfigError,
    InvalidCorpusError,
    TrainingStoppedError,
)
from vicinal.store import Store

SETTLED: dict[str, Any] = {"precision": "float32", "channels_last": True, "threads": 1, "workers": 1}
TINY: dict[str, Any] = {"encoder": "resnet10-w8", "batch_size": 32, "resolutions": (1.0,), **SETTLED}


def config(steps: int = 6, **changes: Any) -> PretrainConfig:
    return PretrainConfig(budget=BudgetConfig(steps=steps), **(TINY | changes))


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "workspace")


def test_a_run_becomes_an_encoder_that_says_how_it_was_made(store, drawings):
    said: list[str] = []
    reports: list[Any] = []
    listener = stage.Listener(said=said.append, reading=lambda *_: None, report=reports.append)
    result = stage.pretrain(store, str(drawings), config(), listener=listener)
    encoder = Encoder.load(store.path("encoders", result.encoder))
    facts = encoder.manifest.body["metadata"]
    assert facts["config"]["method"] == "simclr"
    assert facts["config"]["views"]["crop_scale"] == [0.4, 1.0]
    assert facts["step"] == 6
    assert facts["image_count"] == result.images == 240
    assert set(facts["baselines"]) == {"pixels", "random"}
    assert all(0 < row[name] <= 1 for row in facts["baselines"].values() for name in ("knn", "linear"))
    assert facts["online"][-1]["step"] == 6
    assert 0.25 < facts["online"][-1]["linear"] <= 1
    assert encoder.preprocessing.channels == 1
    assert (encoder.preprocessing.height, encoder.dimension) == (16, 64)
    assert "240 images" in said[0]
    assert "raw pixels" in said[1]
    assert "random encoder" in said[1]
    assert reports[-1].progress == 1.0
    assert "views/s" in reports[-1].line()
    run = find_run(store, result.run)
    for name in ("curves.png", "views.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 200
    assert (run / "logs" / "000" / "metrics.csv").read_text().startswith("alignment,")
    assert list((run / "logs" / "000").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("method", ["simclr", "moco", "byol", "dino", "corinfomax", "exemplar_cnn"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(store, drawings, method, monkeypatch):
    options: dict[str, Any] = {"method": method, "checkpoint_seconds": 0.0, "precision": "bfloat16"}
    whole = stage.pretrain(store, str(drawings), config(8, **options))
    look = Watch.on_train_batch_end

    def die(self, trainer, module, *rest):
        look(self, trainer, module, *rest)
        if module.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_train_batch_end", die)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            stage.pretrain(store, str(drawings), config(8, **options))
    run = find_run(store, "latest")
    assert json.loads((run / "last.json").read_text())["step"] == 5
    resumed = stage.resume(store, run.name)
    first, second = (load_file(store.root / "runs" / name / "last.safetensors") for name in (whole.run, resumed.run))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed.state["views_seen"] == whole.state["views_seen"]


def test_whitening_filters_are_computed_from_the_images_and_travel_with_the_encoder(store, drawings):
    runs = [stage.pretrain(store, str(drawings), config(2, encoder="resnet10-w8-white", seed=seed)) for seed in (0, 1)]
    filters = [
        Encoder.load(store.path("encoders", run.encoder)).model.state_dict()["body.whitening.weight"] for run in runs
    ]
    assert torch.equal(filters[0], filters[1])
    assert float(filters[0].abs().max()) > 1.0, "rare directions are magnified"


def test_the_same_seed_is_the_same_run_and_another_is_another(store, drawings):
    runs = [stage.pretrain(store, str(drawings), config(3, seed=seed)).run for seed in (0, 0, 1)]
    weights = [load_file(store.root / "runs" / run / "last.safetensors") for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_a_time_budget_is_kept(store, drawings):
    result = stage.pretrain(store, str(drawings), PretrainConfig(budget=BudgetConfig(minutes=0.02), **TINY))
    assert 1.0 < result.state["elapsed_s"] < 6.0
    assert result.state["step"] >= 1


def test_a_budget_too_short_for_a_step_makes_one(store, drawings):
    result = stage.pretrain(store, str(drawings), PretrainConfig(budget=BudgetConfig(minutes=1e-6), **TINY))
    assert result.state["step"] == 1


def test_divergence_is_stopped_with_a_remedy_and_keeps_the_last_good_checkpoint(store, drawings):
    wild = config(200, optimizer={"name": "sgd", "lr": 1e6}, checkpoint_seconds=0.0)
    with pytest.raises(TrainingStoppedError, match=r"diverged.*optimizer\.lr"):
        stage.pretrain(store, str(drawings), wild)
    run = find_run(store, "latest")
    if (run / "last.safetensors").exists():
        assert all(tensor.isfinite().all() for tensor in load_file(run / "last.safetensors").values())
    assert store.versions("encoders") == []


def test_collapse_is_stopped_with_a_remedy(store, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in range(40):
        Image.new("L", (16, 16), 77).save(folder / f"{number}.png")
    flat = config(400, views={"jitter": 0.0, "crop_scale": (1.0, 1.0)})
    with pytest.raises(TrainingStoppedError, match="collapsed"):
        stage.pretrain(store, str(folder), flat)


def test_a_stalled_run_is_stopped_with_a_remedy(store, drawings):
    still = {"jitter": 0.0, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0, "solarize": (0.0,)}
    same = {"neighbor_weight": 0.0}  # else the loss is another one in the course of the run
    frozen = config(400, optimizer={"lr": 0.0, "adam_lr": 0.0}, views=still, method_options=same)
    with pytest.raises(TrainingStoppedError, match="stalled"):
        stage.pretrain(store, f"{drawings}?limit=16", frozen)


def test_few_images_and_fewer_than_a_batch(store, drawings, tmp_path):
    assert stage.pretrain(store, f"{drawings}?limit=5", config(2)).images == 5
    with pytest.raises(InvalidCorpusError, match="needs at least 2"):
        stage.pretrain(store, f"{drawings}?limit=1", config(2))


def test_bad_files_are_quarantined_and_training_goes_on(store, drawings, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, path in enumerate(sorted(drawings.rglob("*.png"))[:20]):
        (folder / f"{number}.png").write_bytes(path.read_bytes())
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.png").write_bytes(b"")
    result = stage.pretrain(store, str(folder), config(2))
    assert (result.images, result.quarantined) == (20, 2)
    facts = json.loads((find_run(store, result.run) / "run.json").read_text())
    assert {item_id for item_id, _ in facts["quarantine"]} == {"text.jpg", "empty.png"}


def test_only_bad_files_are_an_error(store, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_text("no")
    with pytest.raises(InvalidCorpusError, match="can be decoded"):
        stage.pretrain(store, str(tmp_path / "bad"), config(2))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "simclar"}, InvalidArgumentError, "did you mean 'simclr'"),
        ({"encoder": "resnet81"}, InvalidArgumentError, "did you mean"),
        ({"views": {"crop_scal": (0.1, 1)}}, InvalidConfigError, "did you mean 'crop_scale'"),
        ({"optimizer": {"name": "adam"}}, InvalidConfigError, "optimizer"),
        ({"device": "cuda:9"}, InvalidArgumentError, "not there"),
        ({"views": {"count": 1}}, InvalidConfigError, "views.count is 1, wanted 2 or more for simclr"),
        ({"views": {"count": 0}}, InvalidConfigError, "views.count is 0, wanted 1 to 64"),
        ({"views": {"count": 3}, "method": "moco"}, InvalidConfigError, "moco compares 2 full views .*simclr.* take"),
        ({"views": {"flip": 7}}, InvalidConfigError, "views.flip is 7, wanted 0 to 1"),
        ({"views": {"hue": float("nan")}}, InvalidConfigError, "views.hue is nan"),
        ({"views": {"blur": (0.5, 1.5)}}, InvalidConfigError, "views.blur is 1.5, wanted 0 to 1"),
        ({"views": {"solarize": ()}}, InvalidConfigError, "views.solarize is empty"),
        ({"views": {"crop_scale": (1, 0.2)}}, InvalidConfigError, "views.crop_scale is 1, 0.2"),
        ({"views": {"local_scale": (0, 2)}}, InvalidConfigError, "views.local_scale is 0, 2"),
        ({"optimizer": {"lr": -1}}, InvalidConfigError, "optimizer.lr is -1"),
        ({"optimizer": {"iterations": 0}}, InvalidConfigError, "optimizer.iterations is 0, wanted 1 to 20"),
        ({"optimizer": {"momentum": 1}}, InvalidConfigError, "optimizer.momentum is 1"),
    ],
)
def test_wrong_settings_are_named(store, drawings, changes, error, message):
    with pytest.raises(error, match=message):
        stage.pretrain(store, str(drawings), config(2, **changes))


def test_export_says_what_is_missing(store, drawings):
    with pytest.raises(ArtifactNotFoundError, match="vicinal pretrain"):
        export(store, "latest")
    run = stage.pretrain(store, str(drawings), config(1)).run
    with pytest.raises(ArtifactNotFoundError, match=f"the latest is {run}"):
        export(store, "other")
    assert export(store, "latest") == "000002"
    weights = store.root / "runs" / run / "last.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CorruptArtifactError, match="damaged"):
        export(store, run)
    weights.unlink()
    with pytest.raises(ArtifactNotFoundError, match="no checkpoint yet"):
        export(store, run)


def test_a_damaged_or_foreign_checkpoint_is_named(store, drawings):
    run = find_run(store, stage.pretrain(store, str(drawings), config(2)).run)
    facts = json.loads((run / "run.json").read_text())
    facts["config"] |= {"method": "simsiam", "method_options": {}}
    (run / "run.json").write_text(json.dumps(facts))
    with pytest.raises(InvalidArgumentError, match="checkpoint is of SimClr"):
        stage.resume(store, run.name)
    content = bytearray((run / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "last.ckpt").write_bytes(bytes(content))
    with pytest.raises(CorruptArtifactError, match=r"last\.ckpt is damaged"):
        stage.resume(store, run.name)


def test_a_run_cannot_be_resumed_on_other_images(store, drawings, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    for number, path in enumerate(sorted(drawings.rglob("*.png"))[:12]):
        (folder / f"{number}.png").write_bytes(path.read_bytes())
    run = stage.pretrain(store, str(folder), config(2)).run
    (folder / "0.png").unlink()
    with pytest.raises(InvalidCorpusError, match="have changed"):
        stage.resume(store, run)


def test_the_commands_print_json(drawings, test_drawings, tmp_path):
    workspace = ["--workspace", str(tmp_path / "w"), "--json"]
    changes = [f"--set={key}={value}" for key, value in {"encoder": "resnet10-w8", "batch_size": 32}.items()]
    words = [str(drawings), "--steps", "12", "--seed", "3", "--set", "precision=float32", *changes, *workspace]
    done = CliRunner().invoke(pretrain_command, words, catch_exceptions=False)
    values = json.loads(done.stdout)
    assert (values["encoder"], values["images"]) == ("000001", 240)
    assert values["views_per_second"] > 0
    done = CliRunner().invoke(export_command, workspace, catch_exceptions=False)
    assert json.loads(done.stdout) == {"encoder": "000002"}
    words = ["--train", str(drawings), "--test", str(test_drawings), "--shots", "1,5", "--draws", "2", *workspace]
    done = CliRunner().invoke(evaluate_encoder, [*words, "--scratch-draws", "1"], catch_exceptions=False)
    values = json.loads(done.stdout)
    assert set(values["knn"]) == {"encoder", "random", "pixels"}
    assert set(values["shots"]) == {"1", "5"}
    assert 0 <= values["few_shot"]["scratch"] <= 1
    assert values["shots"]["5"]["frozen"] > 0.3
    assert values["counts"] == {"train": 240, "test": 60, "classes": 4}
    assert set(values["linear"]) == {"encoder", "random", "pixels"}
    report = tmp_path / "w" / "reports" / "encoder-000002.png"
    assert values["plot"] == str(report)
    with Image.open(report) as picture:
        assert picture.size[0] > 800
    assert json.loads(report.with_suffix(".json").read_text())["shots"] == values["shots"]
    words = [word for word in words if word != "--json"]
    done = CliRunner().invoke(
        evaluate_encoder,
        [*words, "--scratch-draws", "0", "--plot", str(tmp_path / "x" / "p.png")],
        catch_exceptions=False,
    )
    assert "60 queries, 4 classes" in done.stdout
    assert "frozen encoder, logistic regression" in done.stdout
    assert "from scratch" not in done.stdout
    assert (tmp_path / "x" / "p.json").is_file()


def test_evaluation_needs_labels_enough(drawings, test_drawings, tmp_path):
    run = CliRunner().invoke
    run(pretrain_command, [str(drawings), "--steps", "1", "-w", str(tmp_path / "w"), "--encoder", "resnet10-w8"])
    words = ["--train", str(drawings), "--test", str(test_drawings), "-w", str(tmp_path / "w")]
    assert "smallest class has 60" in str(run(evaluate_encoder, [*words, "--shots", "61"]).exception)
    assert "--shots" in str(run(evaluate_encoder, [*words, "--shots", "0"]).exception)
    one = run(
        evaluate_encoder, ["--train", f"{drawings}/disc", "--test", str(test_drawings), "-w", str(tmp_path / "w")]
    )
    assert "2 or more" in str(one.exception)
