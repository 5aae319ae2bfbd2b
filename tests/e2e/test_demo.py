"""The demo at reduced size: real processes, real data, a real swap under load."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.support.data import ROOT, fashion_mnist


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_runs_from_pretraining_to_refresh_without_a_failed_or_wrong_answer(tmp_path):
    fashion_mnist()
    workspace = tmp_path / "workspace"
    command = [sys.executable, "-m", "vicinal", "demo", "--size", "small", "--json", "--workspace", str(workspace)]
    # Its twenty processes are not traced for coverage: other tests cover what they run, and tracing doubles their time.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout)
    refresh = report["refresh"]
    assert refresh["swapped"]
    assert refresh["requests"] > 100
    assert (refresh["failed"], refresh["wrong"], refresh["out_of_order"]) == (0, 0, 0)
    assert set(refresh["replies_by_snapshot"]) == {"snapshots/000001", "snapshots/000002"}
    assert (refresh["new_count"], refresh["reused_count"]) == (500, 3000)
    assert report["search"]["recall"] >= 0.95
    assert report["encoder"]["knn"]["encoder"] > report["encoder"]["knn"]["random"]
    assert report["classify"]["accuracy"] > 0.4
    folder = workspace / "reports" / "demo"
    with Image.open(folder / "neighbors.png") as picture:
        assert picture.width > 600
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 50
    assert "kNN accuracy" in (folder / "report.md").read_text()
    assert "Traceback" not in done.stderr


@pytest.mark.e2e
def test_demo_refuses_a_folder_that_it_did_not_make(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    command = [sys.executable, "-m", "vicinal", "demo", "--workspace", str(tmp_path), "--images", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "dataset-fashion-mnist" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "precious"
