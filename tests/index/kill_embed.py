"""Kills an embed job with SIGKILL at random moments, many times, and compares what comes out in the end.

Run by test_embed_kill.py in a process of its own, so that the children can be forked before torch has threads:

    python -m tests.index.kill_embed FOLDER KILLS SEED
"""

import os
import random
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from index.embed import EmbedOptions, embed
from vicinal.embeddings import Embeddings
from vicinal.store import Store

OPTIONS = EmbedOptions(shard_size=4, batch_size=3, workers=2, now=datetime(2026, 1, 1, tzinfo=UTC))


def child(store: Store, corpus: Path) -> int:
    """Starts the job in a forked process."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            embed(store, [str(corpus)], options=OPTIONS)
            code = 0
        finally:
            os._exit(code)
    return process


def finished(process: int) -> bool:
    """Waits for a process; says whether it ended well, and takes nothing but a kill for another end."""
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in {0, -signal.SIGKILL}:
        raise SystemExit(f"a run ended with {code}, neither well nor killed")
    return code == 0


def result(store: Store) -> dict[str, bytes]:
    """Returns the files of the one version that there must be, verified."""
    (version,) = store.versions("embeddings")
    path = Embeddings.open(store.path("embeddings", version)).path
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "manifest.json"}


def run_job(store: Store, corpus: Path, *, whole_s: float, draw: random.Random) -> int:
    """Runs one job to its end, killed as often as it happens; returns how often."""
    killed = 0
    while True:
        process = child(store, corpus)
        time.sleep(draw.uniform(0, whole_s))
        os.kill(process, signal.SIGKILL)
        if finished(process):
            return killed
        killed += 1
        for version in store.versions("embeddings"):
            Embeddings.open(store.path("embeddings", version))
        if store.versions("embeddings") and not list((store.root / "work").glob("embed-*")):
            return killed  # killed when all was done


def main() -> None:
    """Kills until there were enough kills; every job must end like the one that was left alone."""
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    corpus, draw = folder / "corpus", random.Random(seed)
    reference = Store(folder / "reference")
    started = time.monotonic()
    if not finished(child(reference, corpus)):
        raise SystemExit("the reference run was killed")
    whole_s = time.monotonic() - started
    wanted, killed, jobs = result(reference), 0, 0
    while killed < kills:
        store = Store.create(folder / f"job{jobs}")
        (store.root / "encoders").rmdir()
        (store.root / "encoders").symlink_to(reference.root / "encoders")
        jobs += 1
        killed += run_job(store, corpus, whole_s=whole_s, draw=draw)
        if result(store) != wanted:
            raise SystemExit(f"job {jobs} (seed {seed}) ended otherwise than the one that was left alone")
        if list((store.root / "work").glob("embed-*")):
            raise SystemExit(f"job {jobs} (seed {seed}) left itself in work/")
    sys.stdout.write(f"{killed} kills in {jobs} jobs\n")


if __name__ == "__main__":
    main()
