"""A run, or published weights as they are, become an encoder of the store."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from trainer.readout import shape_of
from trainer.start import find
from trainer.watch import READOUT, STATE, WEIGHTS
from vicinal.config import from_mapping
from vicinal.encoder import save
from vicinal.errors import ArtifactNotFoundError, CorruptArtifactError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create
from vicinal.store import Store
from vicinal.types import Metric

RUN = "run.json"


def find_run(store: Store, name: str) -> Path:
    """Returns the directory of a run.

    Args:
        store: the workspace.
        name: of the run, or ``latest``.

    Raises:
        ArtifactNotFoundError: no such run.
    """
    place = store.root / "runs"
    known = sorted(p.name for p in place.iterdir() if (p / RUN).is_file()) if place.is_dir() else []
    if name == "latest" and known:
        name = known[-1]
    if name not in known:
        have = f"the latest is {known[-1]}" if known else "there are none yet; run: vicinal pretrain"
        raise ArtifactNotFoundError(f"no run {name[:80]!r} in {place}; {have}")
    return place / name


def export(store: Store, run: str) -> str:
    """Writes the last checkpoint of a run as an encoder; a run that has not ended has no readout yet.

    Args:
        store: the workspace.
        run: name of the run, or ``latest``.

    Returns:
        The version in the family ``encoders``.

    Raises:
        ArtifactNotFoundError: no such run, or it has no checkpoint yet.
        CorruptArtifactError: its checkpoint is damaged.
        StorageError: the disk is full or failed.
    """
    directory = find_run(store, run)
    try:
        facts: dict[str, Any] = json.loads((directory / RUN).read_text(encoding="utf-8"))
        state: dict[str, Any] = json.loads((directory / STATE).read_text(encoding="utf-8"))
        architecture = facts["architecture"]
        preprocessing = from_mapping(Preprocessing, facts["preprocessing"], where=str(directory / RUN))
        options = {key: value for key, value in architecture.items() if key != "name"}
        model = create(architecture["name"], **options)
        model.load_state_dict(load_file(directory / WEIGHTS))
        if (directory / READOUT).is_file():
            readout = load_file(directory / READOUT)
            of_readout = shape_of(readout)
            model.read_out(of_readout["readout"], spectral=of_readout.get("spectral", 0)).load_state_dict(readout)
            architecture = architecture | of_readout
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(
            f"run {directory.name} has no checkpoint yet; run: vicinal pretrain --resume {directory.name}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CorruptArtifactError(f"the checkpoint of run {directory.name} is damaged: {error}") from error
    with store.stage("encoders") as staging:
        save(
            staging.path,
            model=model,
            architecture=architecture,
            preprocessing=preprocessing,
            metric=Metric(facts["config"]["metric"]),
            metadata={"run": directory.name, **facts, **state},
        )
        return staging.commit()


def adopt(store: Store, weights: str, *, encoder: str = "auto", image_size: int | None = None) -> str:
    """Writes weights that others have trained as an encoder, without any training.

    Args:
        store: the workspace.
        weights: as ``trainer.start.find`` takes them.
        encoder: the backbone that they are of; a file needs its name.
        image_size: side of the images in pixels; None: what the weights were trained for.

    Returns:
        The version in the family ``encoders``.

    Raises:
        InvalidArgumentError: no such weights, or of another backbone.
        UnavailableError: torchvision's file cannot be downloaded.
        StorageError: the disk is full or failed.
    """
    start = find(weights, encoder=encoder, store=store)
    side, channels = image_size or start.side, start.channels or 3
    architecture = {"name": start.encoder, "channels": channels, "image_size": side}
    model = create(start.encoder, channels=channels, image_size=side)
    start.fill(model)
    preprocessing = Preprocessing(channels=channels, height=side, width=side)
    if start.normalization is not None:
        mean, std = start.normalization
        preprocessing = replace(preprocessing, mean=mean, std=std)
    with store.stage("encoders") as staging:
        save(
            staging.path,
            model=model,
            architecture=architecture,
            preprocessing=preprocessing,
            metric=Metric.COSINE,
            metadata={"weights": weights},
        )
        return staging.commit()
