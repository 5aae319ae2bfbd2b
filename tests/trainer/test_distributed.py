"""A batch that is split over two processes gives the value and the gradient of one process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer import method as methods
from vicinal import plugins
from vicinal.encoder import save
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create
from vicinal.types import Metric

WORKER = Path(__file__).with_name("gloo_worker.py")
ROOT = Path(__file__).resolve().parents[2]


def worker():
    spec = importlib.util.spec_from_file_location("gloo_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    place = tmp_path_factory.mktemp("teacher") / "t"
    torch.manual_seed(0)
    architecture = {"name": "resnet10-w8", "channels": 3, "image_size": 16}
    size = Preprocessing(channels=3, height=16, width=16)
    model = create("resnet10-w8", channels=3, image_size=16)
    save(place, model=model, architecture=architecture, preprocessing=size, metric=Metric.COSINE, metadata={})
    return str(place)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, teacher):
    """What two processes and one process measured, of all methods."""
    place = tmp_path_factory.mktemp("gloo")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    outs = [place / f"{rank}.safetensors" for rank in range(2)]
    words = [[sys.executable, WORKER, str(rank), "2", place / "meet", out, teacher] for rank, out in enumerate(outs)]
    children = [subprocess.Popen(command, env=environment, cwd=ROOT) for command in words]
    assert [child.wait(timeout=200) for child in children] == [0, 0]
    return [*(load_file(out) for out in outs), worker().measure(0, 1, teacher)]


@pytest.mark.slow
@pytest.mark.parametrize("name", plugins.names(methods.FAMILY))
def test_loss_and_gradient_do_not_depend_on_the_number_of_processes(runs, name):
    first, second, alone = ({key: x for key, x in run.items() if key.startswith(f"{name}/")} for run in runs)
    assert set(first) == set(alone)
    assert len(alone) >= 4
    # The gradient of a bias before a standardisation is zero but for rounding, so the scale is that of all.
    largest = max(float(x.abs().max()) for key, x in alone.items() if not key.endswith("/loss"))
    assert largest > 0
    for key, whole in alone.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], whole, rtol=1e-3, atol=1e-5 * largest, msg=key)
