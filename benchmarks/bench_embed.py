"""Embedding a corpus, beside its two limits: the bare decoder and the bare forward pass.

python -m benchmarks.bench_embed            all photographs of clothes, and 10,000 CIFAR-10 JPEGs
python -m benchmarks.bench_embed --quick    a few hundred made-up JPEGs, proves the script

Where encoder and decoder share the processors, what both take together is the limit:
1 / (1 / decode + 1 / forward); where the encoder has its own device it is the slower of the two.
The peer is the usual loop: torch's DataLoader with one worker a processor, vectors kept in memory.
"""

import io
import os
import tempfile
import time
import zipfile
from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from benchmarks.frame import ROOT, Frame, alternate
from index.embed import embed
from index.embed_forward import ForwardPool
from vicinal.corpus import Corpus, CorpusItem, open_corpus
from vicinal.encoder import Encoder, save
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create
from vicinal.store import Store
from vicinal.types import Metric, U8Array

BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One corpus with one encoder."""

    name: str
    corpus: str
    architecture: str
    size: int


def arguments(parser: ArgumentParser) -> None:
    """Adds where the images are, and how often to measure."""
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("VICINAL_TEST_DATA", ROOT.parent / "shared" / "data")),
        help="folder with clothing-jpeg.zip and cifar10-jpeg.zip",
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured, in turn")


def made_up(folder: Path, count: int, *, side: int) -> str:
    """Writes JPEGs of smooth noise into a zip archive and returns its path."""
    draw = np.random.default_rng(0)
    path = folder / f"made-{side}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(count):
            small = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
            stream = io.BytesIO()
            small.resize((side, side), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
            archive.writestr(f"{number:06d}.jpg", stream.getvalue())
    return str(path)


def cases(frame: Frame, folder: Path) -> list[Case]:
    """Returns the corpora: real photographs in a full run."""
    if frame.quick:
        return [
            Case(name="photographs", corpus=made_up(folder, 160, side=192), architecture="resnet18-w24", size=32),
            Case(name="tiny", corpus=made_up(folder, 256, side=32), architecture="resnet18-w24", size=32),
        ]
    clothing, cifar = frame.arguments.data / "clothing-jpeg.zip", frame.arguments.data / "cifar10-jpeg.zip"
    for path in (clothing, cifar):
        if not path.is_file():
            raise SystemExit(f"{path} is not there; name its folder with --data, or run with --quick")
    return [
        Case(name="photographs, small encoder", corpus=str(clothing), architecture="resnet18-w24", size=64),
        Case(name="photographs, resnet18", corpus=str(clothing), architecture="resnet18", size=128),
        Case(name="tiny", corpus=f"{cifar}?under=test", architecture="resnet18-w24", size=32),
    ]


def add_encoder(store: Store, case: Case) -> Encoder:
    """Puts an untrained encoder into the store: its speed is that of a trained one."""
    torch.manual_seed(0)
    with store.stage("encoders") as staging:
        save(
            staging.path,
            model=create(case.architecture, channels=3, image_size=case.size).eval(),
            architecture={"name": case.architecture, "channels": 3, "image_size": case.size},
            preprocessing=Preprocessing(channels=3, height=case.size, width=case.size),
            metric=Metric.COSINE,
            metadata={},
        )
        version = staging.commit()
    return Encoder.load(store.path("encoders", version))


class _Decoded(Dataset[tuple[int, torch.Tensor]]):
    def __init__(self, corpus: Corpus, items: list[CorpusItem], encoder: Encoder) -> None:
        self._corpus, self._items, self._encoder = corpus, items, encoder

    def __len__(self) -> int:
        return len(self._items)

    @override
    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        return number, torch.from_numpy(self._encoder.decode(self._corpus.read(self._items[number])))


class Runs:
    """What is measured of one case, each run over the whole corpus.

    Args:
        case: the corpus and the encoder.
        folder: where a workspace may be made.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.store = Store.create(folder / case.name.replace(" ", "-").replace(",", ""))
        self.encoder = add_encoder(self.store, case)
        self.spec = case.corpus
        self.corpus = open_corpus(case.corpus)
        self.items = list(self.corpus)
        self.workers = len(os.sched_getaffinity(0))
        self.images_BCHW = np.stack([self._decode(item) for item in self.items[: 4 * BATCH]])
        self.encoder.embed(self.images_BCHW[:BATCH])

    def _decode(self, item: CorpusItem) -> U8Array:
        return self.encoder.decode(self.corpus.read(item))

    def decode(self) -> None:
        """Reads and decodes, and throws the images away."""
        with ThreadPoolExecutor(self.workers) as pool:
            for _ in pool.map(self._decode, self.items):
                pass

    def forward(self) -> None:
        """Embeds as many images as there are items, all decoded before."""
        for done in range(0, len(self.items), BATCH):
            count = min(BATCH, len(self.items) - done)
            start = done % max(len(self.images_BCHW) - count, 1)
            self.encoder.embed(self.images_BCHW[start : start + count])

    def forward_side_by_side(self) -> None:
        """The same, with a pass on each processor instead of one pass over all."""
        with ForwardPool(self.encoder) as pool:
            futures = []
            for done in range(0, len(self.items), BATCH // 2):
                count = min(BATCH // 2, len(self.items) - done)
                start = done % max(len(self.images_BCHW) - count, 1)
                futures.append(pool.submit(list(self.images_BCHW[start : start + count])))
            for future in futures:
                future.result()

    def loop(self) -> None:
        """The usual loop."""
        batches = DataLoader(
            _Decoded(self.corpus, self.items, self.encoder), batch_size=BATCH, num_workers=self.workers
        )
        np.concatenate([self.encoder.embed(images.numpy()) for _, images in batches])

    def job(self) -> None:
        """The whole job, as the command runs it."""
        embed(self.store, [self.spec])

    def rate(self, run: Callable[[], None]) -> float:
        """Returns images per second."""
        started = time.perf_counter()
        run()
        return len(self.items) / (time.perf_counter() - started)


def measure(frame: Frame, case: Case, folder: Path) -> dict[str, list[float]]:
    """Returns the images per second of the limits, the peer and the job, in turn."""
    runs = Runs(case, folder)
    frame.config[case.name] = {"images": len(runs.items), "architecture": case.architecture, "size": case.size}
    named: dict[str, Callable[[], float]] = {
        run.__name__: partial(runs.rate, run)
        for run in (runs.decode, runs.forward, runs.forward_side_by_side, runs.loop, runs.job)
    }
    return alternate(named, rounds=1 if frame.quick else frame.arguments.rounds)


def main() -> None:
    """Measures every case; the figures are medians of the rounds."""
    frame = Frame.start("embed", __doc__, add=arguments)
    frame.config["batch_size"] = BATCH
    shared = not torch.cuda.is_available()
    frame.peers["DataLoader loop"] = torch.__version__
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(frame, Path(folder)):
            rates = {name: float(np.median(values)) for name, values in measure(frame, case, Path(folder)).items()}
            decode, forward = rates["decode"], max(rates["forward"], rates["forward_side_by_side"])
            limit = 1 / (1 / decode + 1 / forward) if shared else min(decode, forward)
            frame.add(f"{case.name}: bare decoder", decode, unit="images/s")
            frame.add(
                f"{case.name}: bare forward pass",
                forward,
                unit="images/s",
                note="on decoded images; the faster of two ways",
            )
            frame.add(
                f"{case.name}: embed", rates["job"], unit="images/s", peer="limit of both", peer_value=limit,
                goal="ratio >= 0.9", note="scan, digests, shards, merge and commit included",
            )  # fmt: skip
            frame.add(
                f"{case.name}: embed beside the usual loop", rates["job"], unit="images/s",
                peer="DataLoader loop", peer_value=rates["loop"], goal="> peer",
            )  # fmt: skip
    frame.finish()


if __name__ == "__main__":
    main()
