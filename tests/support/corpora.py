"""Small real image corpora and encoders for tests: made on the spot, byte for byte the same each time."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vicinal.encoder import save
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create
from vicinal.store import Store
from vicinal.types import Metric


def image_bytes(seed: int, *, size: int = 16, kind: str = "PNG") -> bytes:
    """Returns an encoded image of colour patches, another one for every seed."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(patches).resize((size, size), Image.Resampling.BILINEAR).save(stream, kind)
    return stream.getvalue()


def fill(folder: Path, count: int, *, start: int = 0, classes: int = 2) -> Path:
    """Writes ``count`` images into ``folder/class0/0000.png`` and so on."""
    for number in range(start, start + count):
        path = folder / f"class{number % classes}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number))
    return folder


def unpack(archive: Path, folder: Path, *, every: int, count: int) -> Path:
    """Extracts every so-many-th JPEG of a test archive into a folder."""
    with zipfile.ZipFile(archive) as source:
        names = [name for name in sorted(source.namelist()) if name.endswith(".jpg")][::every][:count]
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read(name))
    return folder


def add_encoder(
    store: Store, name: str = "pixels", *, size: int = 8, metric: Metric = Metric.COSINE, mean: float = 0.5
) -> str:
    """Puts an untrained encoder into a store and returns its version."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(channels=3, height=size, width=size, mean=(mean,))
    model = create(name, channels=3, image_size=size).eval()
    with store.stage("encoders") as staging:
        save(
            staging.path,
            model=model,
            architecture={"name": name, "channels": 3, "image_size": size},
            preprocessing=preprocessing,
            metric=metric,
            metadata={},
        )
        return staging.commit()
