"""A run by two processes on the CPU, through the launcher that starts one process for each GPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer import launch
from vicinal.errors import InvalidArgumentError, UnavailableError

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("encoder=resnet10-w8", "precision=float32", "threads=1", "channels_last=true", "checkpoint_seconds=0.0")


def words(*more: str) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return [sys.executable, "-m", "vicinal", "pretrain", "--json", *settings, *more]


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name not in {"RANK", "LOCAL_RANK", "WORLD_SIZE"}}
    return clean | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def run(*more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(*more), check=False, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=100
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("budget", [("--steps", "8"), ("--minutes", "0.03")])
def test_two_processes_make_one_run_and_one_encoder(tmp_path, drawings, budget):
    workspace = ["-w", str(tmp_path / "w"), "--set", "batch_size=30"]
    done = run(str(drawings), *budget, "--devices", "2", *workspace, "--set", "method=moco")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["encoder"] == "000001"
    assert values["online"][-1]["knn"] > 0.25
    (folder,) = (tmp_path / "w" / "runs").iterdir()
    assert json.loads((folder / "run.json").read_text())["config"]["devices"] == 2
    assert len(list((folder / "logs").iterdir())) == 1
    assert [path.name for path in (tmp_path / "w" / "encoders").iterdir()] == ["000001"]
    if budget[0] == "--steps":
        assert (values["step"], values["views_seen"]) == (8, 8 * 2 * 30), "of both processes together"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_run_by_two_processes_is_stopped_and_resumed(tmp_path, drawings):
    workspace = ["-w", str(tmp_path / "w")]
    wild = ("--set", "optimizer.name=sgd", "--set", "optimizer.lr=1e6", "--set", "batch_size=30")
    done = run(str(drawings), "--steps", "40", "--devices", "2", *workspace, *wild)
    assert done.returncode == 1
    assert "diverged" in done.stderr
    assert "Traceback" not in done.stderr
    started = time.monotonic()
    child = subprocess.Popen(
        words(str(drawings), "--steps", "4000", "--devices", "2", *workspace, "--set", "batch_size=30"),
        cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    before = set((tmp_path / "w" / "runs").glob("*/last.ckpt"))
    while set((tmp_path / "w" / "runs").glob("*/last.ckpt")) <= before and time.monotonic() - started < 60:
        time.sleep(0.05)
    os.killpg(child.pid, 9)
    child.wait()
    (folder,) = {path.parent for path in (tmp_path / "w" / "runs").glob("*/last.ckpt")} - {
        path.parent for path in before
    }
    step = json.loads((folder / "last.json").read_text())["step"]
    facts = json.loads((folder / "run.json").read_text())
    facts["config"]["budget"] = {"steps": step + 6, "minutes": None, "epochs": None}
    (folder / "run.json").write_text(json.dumps(facts))
    done = run("--resume", folder.name, *workspace)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == step + 6
    assert all(x.isfinite().all() for x in load_file(folder / "last.safetensors").values() if x.dtype == torch.float32)


def test_a_batch_that_cannot_be_shared_is_an_error(tmp_path, drawings):
    done = run(str(drawings), "--steps", "2", "--devices", "2", "-w", str(tmp_path / "w"), "--set", "batch_size=31")
    assert done.returncode == 2
    assert "batch_size is 31, which 2 processes cannot share" in done.stderr


@pytest.mark.parametrize(
    ("variables", "leads"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True),
        ({"RANK": "4", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_the_first_process_leads(monkeypatch, variables, leads):
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch.is_leader() is leads


def test_a_process_waits_for_the_run_that_it_belongs_to(tmp_path, monkeypatch):
    for name in (launch.RUN_NAME, "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidArgumentError, match="set VICINAL_RUN"):
        launch.await_run(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with pytest.raises(UnavailableError, match="run job-77 has not begun"):
        launch.await_run(tmp_path, patience_s=0.3)
    with launch.sharing("one"):
        assert launch.shared_name() == "one"
        (tmp_path / "runs" / "one").mkdir(parents=True)
        (tmp_path / "runs" / "one" / "run.json").write_text("{}")
        assert launch.await_run(tmp_path) == "one"
    assert launch.shared_name() == "job-77"
