"""A process that builds, publishes and collects without end, to be killed: python churn.py WORKSPACE."""

import sys
from pathlib import Path

from index.build import BuildConfig, build
from index.collect import collect
from index.gates import Gates
from index.publish import publish
from vicinal.store import Store


def main() -> None:
    store = Store(Path(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for kind in ("ivf_flat", "hnsw"):
            report = build(store, config=BuildConfig(kind=kind, query_count=10, recall=0.5))
            publish(store, report.version, gates=Gates(recall=0, query_count=10))
            collect(store, keep=2)


if __name__ == "__main__":
    main()
