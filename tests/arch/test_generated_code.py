"""What is generated is current, and what is published is complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_generated_code_is_what_the_protos_give(tmp_path):
    protos = sorted((ROOT / "protos" / "vicinal" / "v1").glob("*.proto"))
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", *outs, *map(str, protos)]
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=ROOT)
    made = {path.name: path.read_text() for path in (tmp_path / "vicinal" / "v1").iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "vicinal" / "v1").glob("*_pb2*.py*")}
    assert made.keys() == kept.keys(), "run: make gen"
    assert [name for name in made if made[name] != kept[name]] == [], "run: make gen"


def test_every_rpc_documents_its_errors():
    for path in (ROOT / "protos" / "vicinal" / "v1").glob("*_service.proto"):
        lines = path.read_text().splitlines()
        comment: list[str] = []
        for line in lines:
            if line.lstrip().startswith("//"):
                comment.append(line)
                continue
            if line.startswith("  rpc "):
                assert any("Errors:" in text for text in comment), f"{path.name}: {line.strip()}"
            comment = []
