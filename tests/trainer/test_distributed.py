"""A batch that is split over two processes gives the value and the gradient of one process."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("gloo_worker.py")
ROOT = Path(__file__).resolve().parents[2]


def worker():
    spec = importlib.util.spec_from_file_location("gloo_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_loss_and_gradient_do_not_depend_on_the_number_of_processes(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    outs = [tmp_path / f"{rank}.json" for rank in range(2)]
    children = [
        subprocess.Popen([sys.executable, WORKER, str(rank), "2", tmp_path / "meet", out], env=environment, cwd=ROOT)
        for rank, out in enumerate(outs)
    ]
    assert [child.wait(timeout=55) for child in children] == [0, 0]
    first, second = (json.loads(out.read_text()) for out in outs)
    alone = worker().measure(0, 1)
    assert set(first) == set(alone)
    for name, whole in alone.items():
        assert first[name]["loss"] == pytest.approx(whole["loss"], abs=1e-9), name
        assert second[name]["loss"] == pytest.approx(whole["loss"], abs=1e-9), name
        split = torch.cat([torch.tensor(part[name]["gradient"]) for part in (first, second)], dim=1)
        torch.testing.assert_close(split, torch.tensor(whole["gradient"]), rtol=1e-6, atol=1e-9, msg=name)
