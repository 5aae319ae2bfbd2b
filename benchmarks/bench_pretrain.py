"""Representations a minute: ours beside lightly, the same images, encoder, machine and wall budget, in turn.

python -m benchmarks.bench_pretrain                       10 minutes a run, 3 seeds: over an hour
python -m benchmarks.bench_pretrain --minutes 2 --seeds 1
python -m benchmarks.bench_pretrain --fashion FOLDER      Fashion-MNIST, from its IDX files
python -m benchmarks.bench_pretrain --methods all         every method; the teacher of distillation has ImageNet weights
python -m benchmarks.bench_pretrain --quick               seconds; proves the script

CIFAR-10 as JPEG files. Nothing is tuned here; the test images are scored once a run. The peer sees every image in
color at 32 pixels, as its documentation has it; ours sees it as it is, in one folder that names no classes.
"""

import gzip
import os
import tempfile
import zipfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from benchmarks import pretrain_lightly
from benchmarks.frame import ROOT, Frame
from benchmarks.imagenet_weights import LITE, convert
from trainer.allocator import keep_memory
from trainer.config import BudgetConfig, PretrainConfig
from trainer.export import adopt
from trainer.knn import knn_accuracy
from trainer.pretrain import pretrain
from trainer.probes import centroid_predict, linear_predict
from trainer.splits import EvaluationConfig, draw_shots, read_splits
from vicinal.artifact import Manifest
from vicinal.encoder import Encoder
from vicinal.errors import VicinalError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import Backbone
from vicinal.store import Store
from vicinal.types import Metric

SHOTS = (10, 50)
READOUT_S, READOUT_SHARE = 5, 0.1
"""Seconds, and share of the budget, that ours trains less, at most half of it: the readout comes after it. Decoding the
images once and the probe come before the budget."""


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="zip with train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--fashion", type=Path, help="folder with the IDX files of Fashion-MNIST, instead of --data")
    parser.add_argument("--minutes", type=float, default=10.0, help="wall budget of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each side")
    parser.add_argument("--encoder", default="resnet18-w24", help="the encoder of both sides")
    parser.add_argument("--own-encoder", default="", help="another encoder, measured for ours besides")
    parser.add_argument("--methods", default="simclr", help="methods of ours, with commas; 'all' for every one")
    parser.add_argument("--teacher-side", type=int, default=96, help="side of the images that the teacher sees")
    parser.add_argument("--no-peer", action="store_true", help="leave lightly out")


def unpack(frame: Frame, data: Path, images: Path) -> None:
    """Writes ``train/CLASS/*`` and ``test/CLASS/*``; the quick form keeps every twentieth image."""
    step = 20 if frame.quick else 1
    if not frame.arguments.fashion:
        with zipfile.ZipFile(data) as archive:
            archive.extractall(images, archive.namelist()[::step])
        return
    for split, name in (("train", "train"), ("test", "t10k")):
        raw, labels = (
            np.frombuffer(gzip.decompress((data / f"{name}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=skipped)
            for kind, skipped in (("images-idx3", 16), ("labels-idx1", 8))
        )
        for label in range(10):
            (images / split / str(label)).mkdir(parents=True)
        for number in range(0, len(labels), step):
            place = images / split / str(labels[number]) / f"{number:05d}.png"
            Image.fromarray(raw.reshape(-1, 28, 28)[number]).save(place)


def unlabelled(images: Path) -> Path:
    """Returns a folder with the training images that names no classes."""
    folder = images.parent / "unlabelled"
    folder.mkdir()
    for number, path in enumerate(sorted((images / "train").glob("*/*"))):
        os.link(path, folder / f"{number:06d}{path.suffix}")
    return folder


def score(frame: Frame, encoder: Encoder, images: Path) -> dict[str, float]:
    """Returns kNN, linear and few-shot accuracies on the test images, in percent."""
    limits = EvaluationConfig(train_limit=500 if frame.quick else 60_000, test_limit=200 if frame.quick else 10_000)
    one, two = (f"{images}?under={split}" for split in ("train", "test"))
    place = images.parent / "cache"
    train, test = read_splits(one, two, encoder.preprocessing, limits, place=place, progress=lambda *_: None)
    x_ND, x_QD = encoder.embed(train.x_NCHW), encoder.embed(test.x_NCHW)
    result = {
        "knn-20": knn_accuracy(x_ND, train.y_N, x_QD, test.y_N, k=20),
        "knn-200": knn_accuracy(x_ND, train.y_N, x_QD, test.y_N, k=200),
        "linear": float((linear_predict(x_ND, train.y_N, x_QD) == test.y_N).mean()),
    }
    for count in SHOTS:
        rows = [draw_shots(train.y_N, count=count, seed=[count, draw]) for draw in range(10)]
        for name, predict in (("logistic", linear_predict), ("centroid", centroid_predict)):
            right = [(predict(x_ND[chosen], train.y_N[chosen], x_QD) == test.y_N).mean() for chosen in rows]
            result[f"{name}, {count} labels"] = float(np.mean(right))
    return {name: 100 * value for name, value in result.items()}


def wrap(backbone: Backbone) -> Encoder:
    """Makes an encoder of a bare backbone trained with lightly's normalisation."""
    size = Preprocessing(channels=3, height=32, width=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    body = {"dimension": backbone.dimension, "architecture": {}, "fingerprint": ""}
    manifest = Manifest(format="vicinal.encoder", format_version=1, created_at="", body=body, files={})
    device = torch.device("cpu")
    return Encoder(backbone, preprocessing=size, metric=Metric.COSINE, manifest=manifest, device=device)


def ours(frame: Frame, folder: Path, data: str, *, method: str, encoder: str, seed: int) -> tuple[Encoder, float]:
    """Trains ours within the budget; returns the encoder and views a second."""
    store = Store.create(folder / f"{method}-{encoder}-{seed}")
    minutes = frame.arguments.minutes
    budget = BudgetConfig(
        minutes=minutes if frame.quick else minutes - min(READOUT_SHARE * minutes + READOUT_S / 60, minutes / 2)
    )
    options = (
        {"teacher": str(_teacher(store, folder, frame.arguments.teacher_side))} if method == "distillation" else {}
    )
    config = PretrainConfig(budget=budget, method=method, encoder=encoder, seed=seed, method_options=options)
    result = pretrain(store, data, config)
    frame.config.setdefault("runs", []).append({"run": result.run, "seconds": result.seconds, **result.state})
    return Encoder.load(store.path("encoders", result.encoder)), float(result.state["views_per_second"])


def _teacher(store: Store, folder: Path, side: int) -> Path:
    """Returns the directory of an encoder with ImageNet weights."""
    weights = folder / "teacher.safetensors"
    convert(weights)
    return store.path("encoders", adopt(store, str(weights), encoder=LITE, image_size=side))


def _methods(text: str) -> list[str]:
    from trainer.method import FAMILY
    from vicinal import plugins

    return list(plugins.names(FAMILY)) if text == "all" else text.split(",")


def measure(frame: Frame, folder: Path, images: Path) -> dict[str, list[dict[str, float]]]:
    """Runs every side in turn, seed by seed, and returns the scores of each; what did not train is told."""
    arguments = frame.arguments
    scores: dict[str, list[dict[str, float]]] = {}
    sides = [(method, arguments.encoder) for method in _methods(arguments.methods)]
    if arguments.own_encoder:
        sides.append(("simclr", arguments.own_encoder))
    data = f"{unlabelled(images)}{'?limit=600' if frame.quick else ''}"
    for seed in range(frame.seed, frame.seed + arguments.seeds):
        if not arguments.no_peer:
            backbone, views, seconds = pretrain_lightly.train(
                images / "train", encoder=arguments.encoder, seconds=60 * arguments.minutes, seed=seed
            )
            found = score(frame, wrap(backbone), images)
            scores.setdefault("lightly", []).append({"views/s": views / seconds, **found})
        for method, encoder in sides:
            try:
                trained, speed = ours(frame, folder, data, method=method, encoder=encoder, seed=seed)
            except VicinalError as error:
                # Neither ends the runs after it nor goes unseen.
                frame.peers[f"{method} {encoder}, seed {seed}"] = f"did not train: {error}"
                Console(stderr=True).print(f"{method} {encoder}, seed {seed}, did not train: {error}")
                continue
            scores.setdefault(f"{method} {encoder}", []).append({"views/s": speed, **score(frame, trained, images)})
    return scores


def main() -> None:
    """Runs the benchmark."""
    frame = Frame.start("pretrain", __doc__, add=_arguments)
    arguments: Any = frame.arguments
    # As the command does.
    keep_memory()
    if frame.quick:
        arguments.minutes, arguments.seeds = 0.03, 1
    known = Path(os.environ.get("VICINAL_TEST_DATA", ROOT.parent / "shared" / "data")) / "cifar10-jpeg.zip"
    data = arguments.fashion or arguments.data or known
    if not data.exists():
        raise SystemExit(f"no images at {data}; give --data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(frame, data, folder / "images")
        scores = measure(frame, folder, folder / "images")
    peer = scores.pop("lightly", [])
    goals = {"views/s": ">= 3500 and 3x", "knn-20": ">= 66", "logistic, 10 labels": ">= 52"}
    for side, runs in scores.items():
        for name in runs[0]:
            values = [run[name] for run in runs]
            theirs = float(np.mean([run[name] for run in peer])) if peer else None
            frame.add(
                f"{side}: {name}", float(np.mean(values)), unit="1/s" if name == "views/s" else "%",
                peer="lightly" if peer else "", peer_value=theirs, goal=goals.get(name, ""),
                note=f"{len(values)} seeds, std {np.std(values):.2f}",
            )  # fmt: skip
    frame.finish()


if __name__ == "__main__":
    main()
