"""Pretraining: images to an encoder, within a budget, watched, resumable, by one process or several."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from trainer import device as machine
from trainer import memory
from trainer import method as methods
from trainer.cache import ImageCache, open_or_build
from trainer.config import PretrainConfig
from trainer.export import RUN, find_run
from trainer.fit import ROWS, PretrainResult, Run, fit
from trainer.launch import await_run, is_leader, shared_name
from trainer.listener import SILENT, Listener
from trainer.probe import ProbeResult, probe
from trainer.readout import dimension_for
from trainer.setup import architecture_of, resolve
from trainer.start import START, Start, find
from vicinal.artifact import storage_guard
from vicinal.config import from_mapping, to_mapping
from vicinal.encoder import resolve_device
from vicinal.errors import InvalidArgumentError, InvalidConfigError, InvalidCorpusError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import Backbone, create
from vicinal.store import Store

__all__ = ["ROWS", "SILENT", "Listener", "PretrainResult", "follow", "pretrain", "resume"]

_STATISTICS = 2_000


def pretrain(store: Store, corpus: str, config: PretrainConfig, *, listener: Listener = SILENT) -> PretrainResult:
    """Trains an encoder on the images of a corpus and commits it to the store.

    With several processes the program is started again for each of them, which then calls ``follow``: use the
    command, or a program of that form.

    Args:
        store: the workspace.
        corpus: spec of the corpus; its labels are only looked at by the monitor.
        config: method, encoder, budget and the rest.
        listener: who is told how it goes.

    Raises:
        InvalidCorpusError: the corpus cannot be read or has too few images.
        InvalidArgumentError: no such method, encoder, weights or device.
        TrainingStoppedError: the run went bad; its last good checkpoint is kept.
        StorageError: the disk is full or failed.
    """
    device = resolve_device(config.device)
    start = find(config.weights, encoder=config.encoder, store=store) if config.weights else None
    config, why = resolve(config, corpus, device=device, start=start)
    backbone = _backbone(config, start)
    side, channels = architecture_of(config)["image_size"], architecture_of(config)["channels"]
    preprocessing = Preprocessing(channels=channels, height=side, width=side)
    cache = open_or_build(store.root / "work" / "images", corpus, preprocessing, progress=listener.reading)
    _check_count(cache, corpus, least=methods.load(config.method).least_batch)
    mean, std = _statistics(cache) if start is None else start.normalization or _statistics(cache)
    processes = machine.process_count(config)
    config = replace(config, dimension=dimension_for(config, backbone, image_count=len(cache.x_NCHW), start=start))
    found, config, sized = _measured(config, backbone, cache, processes=processes)
    facts = {
        "corpus": corpus,
        "config": to_mapping(config),
        "architecture": architecture_of(config),
        "preprocessing": to_mapping(replace(preprocessing, mean=mean, std=std)),
        "data_digest": cache.digest,
        "image_count": len(cache.x_NCHW),
        "quarantine": [list(entry) for entry in cache.quarantine[:1000]],
    }
    directory = _new_run(store, config)
    with storage_guard(directory):
        if start is not None:
            save_file({name: x.contiguous() for name, x in backbone.state_dict().items()}, directory / START)
        temporary = directory / f".{RUN}"
        temporary.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        temporary.replace(directory / RUN)
    listener.said(_chosen(config, cache, found, device) + why + sized)
    result = fit(store, Run(directory=directory, cache=cache, facts=facts), listener=listener, resumed=False)
    assert result is not None, "the process that begins a run leads it"
    return result


def resume(
    store: Store, run: str, *, devices: int | None = None, nodes: int | None = None, listener: Listener = SILENT
) -> PretrainResult:
    """Continues a run from its last checkpoint, or from its beginning where it has none.

    Args:
        store: the workspace.
        run: name of the run, or ``latest``.
        devices: processes of each node from now on; None: as before.
        nodes: machines from now on; None: as before.
        listener: who is told how it goes.

    Raises:
        ArtifactNotFoundError: no such run.
        InvalidCorpusError: the corpus has changed since.
        TrainingStoppedError: the run went bad; its last good checkpoint is kept.
    """
    opened = _open(store, find_run(store, run), listener)
    changes = {name: value for name, value in {"devices": devices, "nodes": nodes}.items() if value is not None}
    if changes:
        opened.facts["config"] |= changes
        settings = opened.facts["config"]
        _check_shared(settings["batch_size"], settings["devices"] * settings["nodes"])
        with storage_guard(opened.directory):
            (opened.directory / RUN).write_text(json.dumps(opened.facts, indent=1), encoding="utf-8")
    result = fit(store, opened, listener=listener, resumed=True)
    assert result is not None, "the process that resumes a run leads it"
    return result


def follow(workspace: Path, *, resumed: bool) -> None:
    """Takes part in a run that another process leads, until it ends.

    Args:
        workspace: directory of the workspace, the same as the leader's.
        resumed: the run goes on from its last checkpoint.

    Raises:
        InvalidArgumentError: nothing says which run it is.
        UnavailableError: the leader has not begun.
    """
    assert not is_leader()
    name = await_run(workspace)
    store = Store(workspace)
    fit(store, _open(store, find_run(store, name), SILENT), listener=SILENT, resumed=resumed)


def _open(store: Store, directory: Path, listener: Listener) -> Run:
    facts = json.loads((directory / RUN).read_text(encoding="utf-8"))
    size = from_mapping(Preprocessing, facts["preprocessing"], where=str(directory / RUN))
    plain = Preprocessing(channels=size.channels, height=size.height, width=size.width)
    cache = open_or_build(store.root / "work" / "images", facts["corpus"], plain, progress=listener.reading)
    if cache.digest != facts["data_digest"]:
        raise InvalidCorpusError(
            f"the images of {facts['corpus']!r} have changed since run {directory.name} began; start a new run"
        )
    return Run(directory=directory, cache=cache, facts=facts)


def _backbone(config: PretrainConfig, start: Start | None) -> Backbone:
    backbone = create(**architecture_of(config))
    if config.dimension:
        backbone.check_readout(config.dimension)
    if start is not None:
        start.fill(backbone)
        backbone.freeze(config.frozen_stages)
    return backbone


def _measured(
    config: PretrainConfig, backbone: Backbone, cache: ImageCache, *, processes: int
) -> tuple[ProbeResult, PretrainConfig, str]:
    """Returns what the machine does best, the configuration that follows from it, and what to say of the batch."""
    device, world = resolve_device(config.device), processes * config.nodes
    there = memory.available(device, processes=1 if device.type == "cuda" else processes)
    count = len(cache.x_NCHW)
    bfloat16 = config.precision == "bfloat16"
    needs = memory.needs_of(config, backbone, image_count=count, bfloat16=bfloat16)
    most = None if there is None else needs.largest(there // 2)
    found = probe(config, backbone, cache.x_NCHW, device=device, processes=processes, most_images=most)
    if found.bfloat16 and not bfloat16:
        needs = memory.needs_of(config, backbone, image_count=count, bfloat16=True)
    batch, sized = memory.batch_that_fits(config, needs, there, processes=world, image_count=count)
    return found, _settled(replace(config, batch_size=batch), found, processes=processes), sized


def _settled(config: PretrainConfig, found: ProbeResult, *, processes: int) -> PretrainConfig:
    _check_shared(config.batch, processes * config.nodes)
    return replace(
        config,
        precision="bfloat16" if found.bfloat16 else "float32",
        channels_last=found.channels_last,
        threads=found.threads,
        workers=found.workers,
        compile="on" if machine.should_compile(config) else "off",
        devices=processes,
    )


def _check_shared(batch_size: int, processes: int) -> None:
    if batch_size % processes:
        raise InvalidConfigError(
            f"batch_size is {batch_size}, which {processes} processes cannot share; wanted a multiple of {processes}",
            field="batch_size",
        )


def _new_run(store: Store, config: PretrainConfig) -> Path:
    name = shared_name() or f"{datetime.now(UTC).strftime('%Y%m%d-%H%M%S-%f')[:-3]}-{config.method}"
    directory = store.root / "runs" / name
    if directory.exists():
        raise InvalidArgumentError(f"run {name} is there already; go on with --resume {name}, or name another")
    with storage_guard(directory):
        directory.mkdir(parents=True)
    return directory


def _statistics(cache: ImageCache) -> tuple[tuple[float, ...], tuple[float, ...]]:
    x_NCHW = cache.x_NCHW[:: max(1, len(cache.x_NCHW) // _STATISTICS)].astype(np.float32) / 255.0
    mean_C, std_C = x_NCHW.mean(axis=(0, 2, 3)), x_NCHW.std(axis=(0, 2, 3))
    mean = tuple(round(float(value), 4) for value in mean_C)
    return mean, tuple(round(max(float(value), 0.05), 4) for value in std_C)


def _check_count(cache: ImageCache, corpus: str, *, least: int) -> None:
    if len(cache.x_NCHW) < least:
        raise InvalidCorpusError(
            f"{corpus!r} has {len(cache.x_NCHW)} images that can be decoded; pretraining needs at least {least}"
        )


def _chosen(config: PretrainConfig, cache: ImageCache, found: ProbeResult, device: torch.device) -> str:
    several = f" x {config.devices} x {config.nodes} nodes" if (config.devices or 1) * config.nodes > 1 else ""
    compiled = ", compiled" if config.compile == "on" else ""
    return (
        f"{len(cache.x_NCHW)} images ({len(cache.quarantine)} quarantined) of {config.image_size} x "
        f"{config.image_size} x {config.channels}; {config.method} with {config.encoder} on {device}{several}"
        f"{compiled} in {found.text()}"
    )
