"""A run becomes an encoder of the store."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from trainer.watch import STATE, WEIGHTS
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
    """Writes the last checkpoint of a run as an encoder.

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
