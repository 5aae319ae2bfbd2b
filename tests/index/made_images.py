"""Images on disk and encoders for them, for the tests of refresh."""

from pathlib import Path

import numpy as np
from PIL import Image

from vicinal.encoder import save
from vicinal.modalities.image import backbones
from vicinal.modalities.image.preprocess import Preprocessing
from vicinal.store import Store
from vicinal.types import Metric

SIDE = 6


def write_images(folder: Path, numbers: range, *, seed: int = 0, side: int = SIDE) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        rng = np.random.default_rng((seed, number))
        pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")


def put_encoder(store: Store, *, name: str = "pixels", side: int = SIDE, mean: float = 0.5) -> str:
    with store.stage("encoders") as staging:
        save(
            staging.path,
            model=backbones.create(name, channels=3, image_size=side),
            architecture={"name": name, "channels": 3, "image_size": side},
            preprocessing=Preprocessing(channels=3, height=side, width=side, mean=(mean,)),
            metric=Metric.COSINE,
            metadata={},
        )
        return staging.commit()
