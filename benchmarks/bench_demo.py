"""The demo as a benchmark: the whole product on Fashion-MNIST, its report as figures.

python -m benchmarks.bench_demo            60,000 + 10,000 images, two minutes of pretraining
python -m benchmarks.bench_demo --quick    3,500 images, proves the script
"""

import json
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.frame import ROOT, Frame


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, help="folder with the IDX files of Fashion-MNIST")


def run_demo(frame: Frame, workspace: Path) -> dict[str, Any]:
    """Runs ``vicinal demo`` as a user would and returns its report."""
    words = ["--size", "small" if frame.quick else "full", "--seed", str(frame.seed)]
    if frame.arguments.images:
        words += ["--images", str(frame.arguments.images)]
    command = [sys.executable, "-m", "vicinal", "demo", "--json", "--workspace", str(workspace), *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    # Where the workspace was says nothing, and is of this machine.
    report: dict[str, Any] = json.loads(done.stdout.replace(str(workspace), "workspace"))
    return report


def main() -> None:
    """Runs the demo once; its figures are one run's, so small differences mean nothing."""
    frame = Frame.start("demo", __doc__, add=_arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = run_demo(frame, Path(folder) / "workspace")
    knn, few, refresh = report["encoder"]["knn"], report["encoder"]["few_shot"], report["refresh"]
    frame.config["report"] = report
    frame.add(
        "knn accuracy", knn["encoder"], unit="fraction", peer="raw pixels", peer_value=knn["pixels"], goal="> peer"
    )
    frame.add(
        "knn accuracy beside random", knn["encoder"], unit="fraction", peer="random encoder", peer_value=knn["random"]
    )
    frame.add(
        "accuracy, 10 labels a class", few["frozen"], unit="fraction",
        peer="same network from scratch", peer_value=few["scratch"], goal="> peer",
    )  # fmt: skip
    frame.add("accuracy over gRPC, 10 labels a class", report["classify"]["accuracy"], unit="fraction")
    frame.add("recall@10", report["search"]["recall"], unit="fraction", note=report["build"]["kind"])
    frame.add("latency p50", report["search"]["p50_ms"], unit="ms", note="one Python caller")
    frame.add("latency p99", report["search"]["p99_ms"], unit="ms", note="one Python caller")
    frame.add("pretraining", report["pretrain"]["views_per_second"], unit="views/s")
    frame.add("refresh", report["seconds"]["refresh"], unit="s", note=f"{refresh['new_count']} new images")
    frame.add("requests during the refresh", refresh["requests"], unit="count")
    frame.add("failed requests", refresh["failed"], unit="count", goal="0")
    frame.add("wrong replies", refresh["wrong"], unit="count", goal="0")
    frame.add("whole demo", sum(report["seconds"].values()), unit="s", goal="< 360")
    frame.finish()


if __name__ == "__main__":
    main()
