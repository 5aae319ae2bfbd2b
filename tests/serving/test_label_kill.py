"""Writers are killed at random moments: no acknowledged label is lost, no batch is torn, the log stays readable."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.labels.log import LabelLog

ROUNDS = 4
WRITERS = 2


@pytest.mark.slow
@pytest.mark.e2e
def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    log = LabelLog(path)
    log.create_set("load")
    log.close()
    chance, acknowledged = random.Random(5), {}
    for round_number in range(ROUNDS):
        writers = [f"w{round_number}-{n}" for n in range(WRITERS)]
        processes = [start(path, writer) for writer in writers]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        time.sleep(0.05 + chance.random() / 4)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for writer, process in zip(writers, processes, strict=True):
            out, err = process.communicate(timeout=20)
            assert not err
            for line in out.splitlines(keepends=True):
                if line.endswith("\n"):
                    number, batch = line.split()
                    acknowledged[f"{writer}-{number}"] = int(batch)
        check(path, acknowledged)
    assert len(acknowledged) > ROUNDS * WRITERS


def start(path: Path, writer: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.serving.label_writer", str(path), writer]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check(path: Path, acknowledged: dict[str, int]) -> None:
    log = LabelLog(path)
    held = {row.item_id for row in log.labels("load")}
    batches = log.batches("load", limit=1_000_000)
    for key in acknowledged:
        assert all(f"{key}-{i}" in held for i in range(20)), key
    assert [one.number for one in batches] == list(range(len(batches), 0, -1)), "numbers have no gaps"
    assert len(held) == 20 * len(batches), "no batch is torn"
    assert len(set(acknowledged.values())) == len(acknowledged)
    log.close()
