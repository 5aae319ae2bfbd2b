"""Photographs of clothes: from scratch, from ImageNet weights as they are, and from those trained further.

python -m benchmarks.bench_clothing                 10 minutes a run
python -m benchmarks.bench_clothing --minutes 30 --side 128
python -m benchmarks.bench_clothing --quick         seconds; proves the script

The weights are EfficientNet-Lite0's, see benchmarks/imagenet_weights.py. The test images are scored once a run.
"""

import os
import tempfile
import zipfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.frame import ROOT, Frame
from benchmarks.imagenet_weights import LITE, convert
from trainer.config import BudgetConfig, PretrainConfig
from trainer.evaluate import EvaluationConfig, evaluate, read_splits
from trainer.export import adopt
from trainer.pretrain import pretrain
from vicinal.encoder import Encoder
from vicinal.store import Store


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="zip with train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--minutes", type=float, default=10.0, help="wall budget of each run")
    parser.add_argument("--side", type=int, default=96, help="side of the images in pixels")
    parser.add_argument(
        "--rate", type=float, default=None, help="of the backbone from weights; default as the trainer's"
    )
    parser.add_argument("--frozen", type=int, default=0, help="frozen stages from weights")
    parser.add_argument("--draws", type=int, default=10, help="draws of few labels")


def encoders(frame: Frame, store: Store, images: Path, weights: Path) -> dict[str, str]:
    """Makes the encoders to compare; returns their versions by name."""
    arguments: Any = frame.arguments
    shared: dict[str, Any] = {
        "budget": BudgetConfig(steps=2) if frame.quick else BudgetConfig(minutes=arguments.minutes),
        "image_size": arguments.side,
        "channels": 3,
        "seed": frame.seed,
        "batch_size": 16 if frame.quick else None,
    }
    data = f"{images}?under=train{'&limit=64' if frame.quick else ''}"
    begun: dict[str, Any] = {
        "weights": str(weights),
        "encoder": LITE,
        "frozen_stages": arguments.frozen,
        "backbone_rate": arguments.rate,
    }
    return {
        "ImageNet weights as they are": adopt(store, str(weights), encoder=LITE, image_size=arguments.side),
        "ImageNet weights, trained further": pretrain(store, data, PretrainConfig(**shared, **begun)).encoder,
        "from scratch": pretrain(store, data, PretrainConfig(**shared)).encoder,
    }


def main() -> None:
    """Runs the benchmark."""
    frame = Frame.start("clothing", __doc__, add=_arguments)
    arguments: Any = frame.arguments
    if frame.quick:
        arguments.side, arguments.draws = 32, 1
    known = Path(os.environ.get("VICINAL_TEST_DATA", ROOT.parent / "shared" / "data")) / "clothing-jpeg.zip"
    data = arguments.data or known
    if not data.is_file():
        raise SystemExit(f"no images at {data}; give --data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(data) as archive:
            archive.extractall(folder / "images", archive.namelist()[:: 4 if frame.quick else 1])
        convert(folder / "lite0.safetensors")
        store = Store.create(folder / "workspace")
        shots = (1, 5) if frame.quick else (1, 5, 10)
        config = EvaluationConfig(shots=shots, draws=arguments.draws, scratch_draws=0, seed=frame.seed)
        train, test = (f"{folder / 'images'}?under={split}" for split in ("train", "test"))
        for what, version in encoders(frame, store, folder / "images", folder / "lite0.safetensors").items():
            encoder = Encoder.load(store.path("encoders", version))
            splits = read_splits(
                train, test, encoder.preprocessing, config, place=folder / "c", progress=lambda *_: None
            )
            found = evaluate(encoder, *splits, config)
            frame.config[what] = found
            frame.add(f"{what}: kNN", 100 * found["knn"]["encoder"], unit="%")
            frame.add(f"{what}: linear", 100 * found["linear"]["encoder"], unit="%")
            for count in shots:
                row = found["shots"][str(count)]
                note = f"pixels {100 * row['pixels']:.1f}, std {100 * row['std']['frozen']:.1f}"
                frame.add(f"{what}: {count} labels a class", 100 * row["frozen"], unit="%", note=note)
    frame.finish()


if __name__ == "__main__":
    main()
