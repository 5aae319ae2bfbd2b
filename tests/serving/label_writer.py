"""Writes labels until it is killed, and says which batch it was told is on disk: run as a process of its own."""

import sys
from pathlib import Path

from serving.labels.log import LabelLog
from serving.labels.records import Entry


def main(path: Path, writer: str) -> None:
    log = LabelLog(path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for number in range(1_000_000):
        entries = [Entry(item_id=f"{writer}-{number}-{i}", label=f"c{i % 3}", author=writer) for i in range(20)]
        batch = log.put("load", entries, request_id=f"{writer}-{number}")
        sys.stdout.write(f"{number} {batch.number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
