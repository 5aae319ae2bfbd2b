"""A run that is killed with -9 goes on from its last checkpoint and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("encoder=resnet10-w8", "batch_size=32", "precision=bfloat16", "checkpoint_seconds=0.0", "method=byol")
SETTLED = ("threads=1", "channels_last=true", "workers=1")


def start(workspace: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vicinal", "pretrain", "-w", str(workspace), "--json", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_run_resumes_bit_for_bit(tmp_path, drawings):
    settings = [word for setting in SETTINGS + SETTLED for word in ("--set", setting)]
    words = [str(drawings), "--steps", "60", "--seed", "7", *settings]
    killed = start(tmp_path / "killed", *words)
    deadline = time.monotonic() + 100
    while not list((tmp_path / "killed" / "runs").glob("*/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (run,) = (tmp_path / "killed" / "runs").iterdir()
    assert 0 < json.loads((run / "last.json").read_text())["step"] < 60, "killed too late to show anything"
    resumed = json.loads(start(tmp_path / "killed", "--resume", "latest").communicate()[0])
    whole = json.loads(start(tmp_path / "whole", *words).communicate()[0])
    assert (resumed["step"], resumed["views_seen"]) == (whole["step"], whole["views_seen"])
    places = [tmp_path / name / "encoders" / "000001" for name in ("killed", "whole")]
    weights = [load_file(place / "weights.safetensors") for place in places]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
