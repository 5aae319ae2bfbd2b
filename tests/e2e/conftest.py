"""A workspace made by the verbs, as a user would, from folders and archives of real JPEG files."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.data import ROOT, shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Runs verbs on one workspace."""

    workspace: Path

    def vicinal(self, *words: str | Path, workspace: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a verb and returns what became of it."""
        place = ["--workspace", str(self.workspace)] if workspace else []
        command = [sys.executable, "-m", "vicinal", *map(str, words), *place]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def json(self, *words: str | Path) -> dict[str, Any]:
        """Runs a verb that must succeed and returns the JSON it prints."""
        done = self.vicinal(*words, "--json")
        assert done.returncode == 0, done.stderr[-3000:]
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def refused(self, *words: str | Path, workspace: bool = True) -> str:
        """Runs a verb that must fail with one clear error and returns that line."""
        done = self.vicinal(*words, workspace=workspace)
        assert done.returncode in {1, 2}, (done.returncode, done.stdout, done.stderr[-3000:])
        assert "Traceback" not in done.stdout + done.stderr
        assert "internal error" not in done.stderr
        lines = [line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]
        assert len(lines) == 1, done.stderr[-3000:]
        return lines[0]

    def serve(self, *words: str) -> Iterator[str]:
        """Runs a server on a free port of loopback, gives its address, and ends it."""
        ready = self.workspace.parent / f"ready-{time.monotonic_ns()}.json"
        command = [sys.executable, "-m", "vicinal", "serve", "--port", "0", "--ready-file", str(ready)]
        process = subprocess.Popen([*command, "--workspace", str(self.workspace), *words], cwd=ROOT)
        try:
            deadline = time.monotonic() + 50
            while not ready.exists():
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.05)
            yield json.loads(ready.read_text())["address"]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpegs:
    """CIFAR-10 as most users have images: a folder with files in it, and archives."""

    folder: Path
    archive: Path
    new: Path
    """Images that no one has seen, as a folder."""


@pytest.fixture(scope="session")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Jpegs:
    """Some hundred images of the shared CIFAR-10 archive: a folder, a zip and a folder of new ones."""
    place = tmp_path_factory.mktemp("jpegs")
    made = Jpegs(folder=place / "photos", archive=place / "more.zip", new=place / "new")
    with zipfile.ZipFile(shared("cifar10-jpeg.zip")) as source, zipfile.ZipFile(made.archive, "w") as archive:
        by_class: dict[str, list[str]] = {}
        for name in source.namelist():
            if name.startswith("train/") and name.endswith(".jpg"):
                by_class.setdefault(name.split("/")[1], []).append(name)
        for label, names in by_class.items():
            for name in names[:40]:
                path = made.folder / label / Path(name).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read(name))
            for name in names[40:55]:
                archive.writestr(f"{label}/{Path(name).name}", source.read(name))
            for name in names[55:60]:
                path = made.new / label / Path(name).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read(name))
    return made


@pytest.fixture(scope="session")
def served(jpegs: Jpegs, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A workspace with an encoder, embeddings and an active snapshot of 550 images."""
    shell = Shell(workspace=tmp_path_factory.mktemp("served") / "workspace")
    shell.json("pretrain", jpegs.folder, "--steps", "4", "--set", "batch_size=64", "--seed", "1")
    shell.json("embed", f"photos={jpegs.folder}", f"more={jpegs.archive}")
    shell.json("build", "--kind", "hnsw")
    shell.json("publish")
    return shell


@pytest.fixture(scope="session")
def address(served: Shell) -> Iterator[str]:
    """Address of a server over that workspace."""
    os.environ.pop("VICINAL_WORKSPACE", None)
    yield from served.serve("--processes", "1")
