"""House rules that no linter knows."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_artefact_data_or_weights_are_tracked():
    banned = {".safetensors", ".ckpt", ".pt", ".pth", ".faiss", ".npy", ".npz", ".arrow", ".parquet", ".zip", ".gz"}
    assert [str(p) for p in tracked() if p.suffix in banned or p.stat().st_size > 1 << 20] == []


def test_no_file_of_ours_is_longer_than_300_lines():
    own = [p for p in tracked() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in STAGES and "v1" not in p.parts]
    assert {str(p.relative_to(ROOT)) for p in own if len(p.read_text().splitlines()) > 300} == set()


def test_nothing_is_called_utils_common_or_helpers():
    assert [str(p) for p in tracked() if p.stem in {"utils", "common", "helpers"}] == []


def test_only_one_file_names_gpus_in_each_stage_that_uses_them():
    pattern = re.compile(r"index_cpu_to_gpu|StandardGpuResources|GpuIndex")
    places = [p for p in tracked() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in STAGES]
    assert {str(p.relative_to(ROOT)) for p in places if pattern.search(p.read_text())} <= {"index/device.py"}


def test_figures_in_the_docs_have_a_result_file():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for name in re.findall(r"benchmarks/results/[\w.-]+\.json", page.read_text()):
            assert (ROOT / name).is_file(), f"{page.name} quotes {name}"


STAGES = {"vicinal", "trainer", "index", "serving"}
