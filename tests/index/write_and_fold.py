"""A process that writes, folds and collects without end, to be killed: python write_and_fold.py WORKSPACE FIRST.

Says what it is about to do before, and that it was acknowledged after, a line each.
"""

import sys
from pathlib import Path

import numpy as np

from index.collect import collect
from index.delta import Delta
from index.gates import Gates
from index.refresh import RefreshConfig, refresh
from index.snapshot import Snapshot
from tests.index.made_vectors import make_item
from vicinal.store import Store

GATES = Gates(recall=0, query_count=10)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def open_delta(store: Store) -> Delta:
    with Snapshot.open(store.path("snapshots", store.active().snapshot), verify=False) as snapshot:
        return Delta(store, fingerprint=snapshot.fingerprint, dimension=snapshot.dimension, metric=snapshot.metric)


def main() -> None:
    store, number = Store(Path(sys.argv[1])), int(sys.argv[2])
    delta = open_delta(store)
    say("ready")
    while True:
        for _ in range(6):
            number += 1
            say("put", number)
            delta.upsert([make_item(number)], np.full((1, 8), number, np.float32))
            say("done", number)
            if number % 3 == 0:
                say("drop", number - 1)
                delta.delete([f"item-{number - 1:06d}"])
                say("gone", number - 1)
        refresh(store, (), config=RefreshConfig(gates=GATES))
        collect(store, keep=1)


if __name__ == "__main__":
    main()
