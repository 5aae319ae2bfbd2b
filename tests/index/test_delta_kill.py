"""kill -9 at any moment of writing, folding and collecting: every acknowledged change is there, in snapshot or log."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from index.build import BuildConfig, build
from index.live import LiveSnapshot, folded_number
from index.publish import publish
from index.snapshot import Snapshot
from tests.index.made_vectors import clustered, make_item, put_embeddings
from tests.index.write_and_fold import GATES, open_delta
from vicinal.store import Store
from vicinal.types import Metric

KILLS = int(os.environ.get("VICINAL_KILLS", "6"))
SCRIPT = Path(__file__).with_name("write_and_fold.py")
COUNT = 60
FIRST = 1000


def run_and_kill(store: Store, first: int, seconds: float) -> list[list[str]]:
    """Returns what the process said before it was killed."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(store.root), str(first)],
        cwd=SCRIPT.parents[2],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().splitlines(keepends=True)
        process.wait()
    return [line.split() for line in lines if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.timeout(240 + 20 * KILLS)
def test_killed_anywhere_every_acknowledged_change_is_there(store: Store) -> None:
    items = [make_item(number) for number in range(COUNT)]
    put_embeddings(store, clustered(COUNT, 8), metric=Metric.L2, items=items)
    publish(store, build(store, config=BuildConfig(kind="flat", query_count=10)).version, gates=GATES)
    chance = random.Random(5)
    there: set[int] = set()
    gone: set[int] = set()
    unsure: set[int] = set()
    folded = 0
    last = FIRST
    for attempt in range(4 * KILLS):
        if attempt >= KILLS and folded:
            break
        # On a slow machine nothing is folded in the first ones.
        said = run_and_kill(store, last, chance.uniform(0.05, 1.5 if attempt < KILLS else 5.0))
        for word, text in said:
            last = max(last, int(text))
            {"done": there, "gone": gone}.get(word, set()).add(int(text))
        # A deletion that was taken and not acknowledged stays one in the attempts after it.
        unsure = (unsure | {int(text) for word, text in said if word == "drop"}) - gone
        last += 1  # the last write may have been taken and not acknowledged
        with Snapshot.open(store.path("snapshots", store.active().snapshot), verify=True) as snapshot:
            folded = max(folded, folded_number(snapshot))
            live = LiveSnapshot(snapshot, open_delta(store).tail(after=folded_number(snapshot)))
            for number in there - gone - unsure:
                row = live.items.find(f"item-{number:06d}")
                assert row is not None, number
                assert (live.vectors_of(np.array([row])) == number).all()
            assert not [number for number in gone if live.items.find(f"item-{number:06d}") is not None]
            assert live.items.find("item-000000") == 0
    assert folded > 0, "nothing was folded; let it run for longer"
    assert there
    assert gone
