"""What depends on the machine: fused updates, compilation, images on the device, the probe."""

import copy
import shutil

import numpy as np
import pytest
import torch

from trainer import device as machine
from trainer import optimizer
from trainer import pretrain as stage
from trainer.config import BudgetConfig, OptimizerConfig, PretrainConfig
from trainer.data import Sampler, StepLoader
from trainer.probe import probe
from trainer.probes import linear_predict, ridge_predict
from vicinal.errors import InvalidArgumentError, InvalidConfigError, InvalidCorpusError
from vicinal.modalities.image.backbones import create
from vicinal.store import Store


def config(minutes=1.0, **changes):
    return PretrainConfig(budget=BudgetConfig(minutes=minutes), **changes)


@pytest.mark.parametrize("name", ["muon", "sgd", "adamw", "lars"])
def test_fused_updates_are_the_rules(name):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 8, 3))
    models = [model, copy.deepcopy(model)]
    settings = OptimizerConfig(name=name, lr=0.05, weight_decay=0.1)
    solvers = [
        optimizer.MixedOptimizer(optimizer.groups_of(settings, [one], batch_size=256), fused=fused)
        for one, fused in zip(models, (False, True), strict=True)
    ]
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        x_BCHW, weights = (torch.randn(4, count, side, side, generator=generator) for count, side in ((3, 12), (8, 6)))
        for one, solver in zip(models, solvers, strict=True):
            solver.zero_grad()
            (one(x_BCHW) * weights).mean().backward()
            solver.step()
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(
            first, second, rtol=2e-2 if name == "muon" else 1e-5, atol=2e-3 if name == "muon" else 1e-6
        )
    assert all(parameter.isfinite().all() for parameter in models[1].parameters())


def test_a_state_of_single_updates_goes_on_fused():
    model = torch.nn.Linear(4, 4)
    settings = OptimizerConfig(name="adamw", lr=0.01)
    solvers = [
        optimizer.MixedOptimizer(optimizer.groups_of(settings, [model], batch_size=256), fused=fused)
        for fused in (False, True)
    ]
    model(torch.ones(2, 4)).sum().backward()
    solvers[0].step()
    solvers[1].load_state_dict(solvers[0].state_dict())
    solvers[1].step()
    assert float(solvers[1].state[model.weight]["count"]) == 2


def test_the_backbone_learns_more_slowly_where_asked():
    modules = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    groups = optimizer.groups_of(OptimizerConfig(), modules, batch_size=256, scales=(0.1, 1.0))
    assert [round(group["lr"], 6) for group in groups] == [0.003, 0.0002, 0.03, 0.002]
    assert len(optimizer.groups_of(OptimizerConfig(), modules, batch_size=256)) == 2
    plain = optimizer.groups_of(OptimizerConfig(heads="adamw", iterations=2), modules, batch_size=256)
    assert [group["rule"] for group in plain] == ["muon", "adamw", "adamw", "adamw"]
    assert plain[0]["iterations"] == 2


def test_processes_and_strategy_follow_the_machine():
    assert machine.process_count(config(device="cpu")) == 1
    alone = machine.trainer_options(config(device="cpu", precision="bfloat16"))
    assert (alone["accelerator"], alone["devices"], alone["strategy"]) == ("cpu", 1, "auto")
    assert alone["precision"] == "bf16-mixed"
    shared = machine.trainer_options(config(device="cpu", devices=2, nodes=3))
    assert (shared["devices"], shared["num_nodes"]) == (2, 3)
    assert shared["strategy"]._process_group_backend == "gloo"
    assert not shared["sync_batchnorm"]


def test_only_long_runs_on_gpus_are_compiled_unasked(monkeypatch):
    assert not machine.should_compile(config(minutes=60.0, device="cpu"))
    assert not machine.should_compile(config(device="cpu", compile="off"))
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/g++")
    assert machine.should_compile(config(device="cpu", compile="on"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InvalidArgumentError, match="no C\\+\\+ compiler"):
        machine.should_compile(config(device="cpu", compile="on"))


@pytest.mark.parametrize("changes", [{"devices": 0}, {"nodes": 0}, {"threads": 0}, {"workers": 2}])
def test_counts_that_cannot_be_are_named(changes):
    with pytest.raises(InvalidConfigError, match=next(iter(changes))):
        config(**changes)


def test_images_are_copied_whole_and_only_to_gpus():
    x_NCHW = np.random.default_rng(0).integers(0, 256, (machine._CHUNK + 3, 1, 2, 2), dtype=np.uint8)
    x_NCHW.flags.writeable = False
    copied = machine.copy_to(x_NCHW, torch.device("cpu"))
    assert np.array_equal(copied.numpy(), x_NCHW)
    assert machine.resident(x_NCHW, torch.device("cpu")) is None


@pytest.mark.parametrize("prefetch", [True, False])
def test_a_loader_gives_the_steps_of_its_sampler(prefetch):
    x_NCHW = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    sampler = Sampler(count=20, batch_size=6, seed=0)
    batches = iter(StepLoader(x_NCHW, sampler, first_step=lambda: 2, prefetch=prefetch))
    for step in (2, 3, 4):
        batch = next(batches)
        assert batch.step == step
        assert batch.rows_B.tolist() == sampler.rows(step).tolist() == batch.x_BCHW.flatten().tolist()
    assert Sampler(count=7, batch_size=6, seed=0, processes=4).batch_size == 4
    with pytest.raises(InvalidCorpusError, match="too few for 4 processes"):
        Sampler(count=3, batch_size=6, seed=0, processes=4)


def test_the_probe_measures_what_is_open_and_says_what_it_chose():
    x_NCHW = np.zeros((64, 3, 16, 16), dtype=np.uint8)
    backbone = create("resnet10-w8", image_size=16)
    threads = torch.get_num_threads()
    found = probe(config(), backbone, x_NCHW, device=torch.device("cpu"))
    assert len(found.images_per_second) >= 3
    assert found.threads in {threads, threads // 2}
    assert found.workers in {0, 1}
    assert found.reading_share is not None
    for word in ("threads", "reading ahead", "channels", "images/s"):
        assert word in found.text()
    assert torch.get_num_threads() == threads
    settled = config(precision="float32", channels_last=False, threads=1, workers=0)
    quiet = probe(settled, backbone, x_NCHW, device=torch.device("cpu"))
    assert quiet.images_per_second == {}
    assert (quiet.bfloat16, quiet.channels_last, quiet.threads, quiet.workers) == (False, False, 1, 0)


def test_the_ridge_probe_is_about_logistic_regression():
    random = np.random.default_rng(0)
    means_CD = random.normal(size=(4, 40)) * 0.8
    y_N = random.integers(0, 4, 600)
    x_ND = (means_CD[y_N] + random.normal(size=(600, 40))).astype(np.float32)
    for count in (400, 30):
        accuracies = [
            float((predict(x_ND[:count], y_N[:count], x_ND[400:]) == y_N[400:]).mean())
            for predict in (ridge_predict, linear_predict)
        ]
        assert abs(accuracies[0] - accuracies[1]) < 0.08
        assert accuracies[0] > 0.6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_images_and_updates_stay_on_the_gpu():
    device = torch.device("cuda")
    x_NCHW = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)
    sampler = Sampler(count=64, batch_size=16, seed=0)
    batch = next(iter(StepLoader(x_NCHW, sampler, first_step=lambda: 0, device=lambda: device)))
    assert batch.x_BCHW.is_cuda
    assert np.array_equal(batch.x_BCHW.cpu().numpy(), x_NCHW[sampler.rows(0)])
    model = torch.nn.Linear(4, 4).to(device)
    solver = optimizer.create(OptimizerConfig(), [model], batch_size=256)
    model(torch.ones(2, 4, device=device)).sum().backward()
    solver.step()
    assert machine.process_count(config(device="cuda")) == torch.cuda.device_count()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_a_gpu_becomes_an_encoder(drawings, tmp_path):
    settings = PretrainConfig(
        budget=BudgetConfig(steps=4), encoder="resnet10-w8", batch_size=32, device="cuda:0", method="moco"
    )
    result = stage.pretrain(Store.create(tmp_path / "w"), str(drawings), settings)
    assert result.state["step"] == 4
    assert result.state["online"]
