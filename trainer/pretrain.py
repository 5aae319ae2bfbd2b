"""Pretraining: images to an encoder, within a budget, watched, resumable."""

import json
import logging
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainer import method as methods
from trainer.cache import ImageCache, open_or_build
from trainer.config import PretrainConfig
from trainer.data import StepLoader
from trainer.export import RUN, export, find_run
from trainer.module import PretrainModule
from trainer.monitor import KnnMonitor
from trainer.pictures import CURVES, VIEWS, draw_curves, draw_views
from trainer.probe import ProbeResult, probe
from trainer.setup import architecture_of, make_module, resolve
from trainer.start import START, find
from trainer.watch import CHECKPOINT, Report, Watch
from vicinal.artifact import storage_guard
from vicinal.config import from_mapping, to_mapping
from vicinal.encoder import resolve_device
from vicinal.errors import CorruptArtifactError, InvalidCorpusError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import Backbone, create
from vicinal.store import Store
from vicinal.types import JsonObject

_STATISTICS = 2_000
ROWS = {"pixels": "raw pixels", "random": "random encoder", "start": "the weights it starts from"}
"""What baselines are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who is told how it goes."""

    said: Callable[[str], None]
    """A sentence for people."""
    reading: Callable[[str, int, int], None]
    """What is done to the images, how many, of how many."""
    report: Callable[[Report], None]
    """The state of the training."""


SILENT = Listener(said=lambda _: None, reading=lambda *_: None, report=lambda _: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainResult:
    """What came of a run."""

    encoder: str
    """Version in the family ``encoders``."""
    run: str
    """Name of the run."""
    seconds: float
    """Of training and measuring; reading the corpus not included."""
    images: int
    """Images that were trained on."""
    quarantined: int
    """Images that could not be decoded."""
    state: JsonObject
    """Step, speed, health and accuracies at the end."""


def pretrain(store: Store, corpus: str, config: PretrainConfig, *, listener: Listener = SILENT) -> PretrainResult:
    """Trains an encoder on the images of a corpus and commits it to the store.

    Args:
        store: the workspace.
        corpus: spec of the corpus; its labels are only looked at by the monitor.
        config: method, encoder, budget and the rest.
        listener: who is told how it goes.

    Raises:
        InvalidCorpusError: the corpus cannot be read or has too few images.
        InvalidArgumentError: no such method, encoder or device.
        TrainingStoppedError: the run went bad; its last good checkpoint is kept.
        StorageError: the disk is full or failed.
    """
    device = resolve_device(config.device)
    start = find(config.weights, encoder=config.encoder, store=store) if config.weights else None
    config, why = resolve(config, corpus, device=device, start=start)
    architecture = architecture_of(config)
    backbone = create(**architecture)
    if start is not None:
        start.fill(backbone)
        backbone.freeze(config.frozen_stages)
    preprocessing = Preprocessing(
        channels=architecture["channels"], height=architecture["image_size"], width=architecture["image_size"]
    )
    cache = open_or_build(store.root / "work" / "images", corpus, preprocessing, progress=listener.reading)
    _check_count(cache, corpus, least=methods.load(config.method).least_batch)
    mean, std = _statistics(cache) if start is None else start.normalization or _statistics(cache)
    preprocessing = replace(preprocessing, mean=mean, std=std)
    found = _precision(config, backbone, device)
    config = replace(config, precision="bfloat16" if found.bfloat16 else "float32")
    name = f"{datetime.now(UTC).strftime('%Y%m%d-%H%M%S-%f')[:-3]}-{config.method}"
    facts = {
        "corpus": corpus,
        "config": to_mapping(config),
        "architecture": architecture,
        "preprocessing": to_mapping(preprocessing),
        "data_digest": cache.digest,
        "image_count": len(cache.x_NCHW),
        "quarantine": [list(entry) for entry in cache.quarantine[:1000]],
    }
    directory = store.root / "runs" / name
    with storage_guard(directory):
        directory.mkdir(parents=True)
        if start is not None:
            save_file({name: x.contiguous() for name, x in backbone.state_dict().items()}, directory / START)
        (directory / RUN).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    listener.said(_chosen(config, cache, found, device) + why)
    return _fit(store, _Run(directory=directory, cache=cache, facts=facts), listener=listener, resumed=False)


def resume(store: Store, run: str, *, listener: Listener = SILENT) -> PretrainResult:
    """Continues a run from its last checkpoint, or from its beginning where it has none.

    Args:
        store: the workspace.
        run: name of the run, or ``latest``.
        listener: who is told how it goes.

    Raises:
        ArtifactNotFoundError: no such run.
        InvalidCorpusError: the corpus has changed since.
        TrainingStoppedError: the run went bad; its last good checkpoint is kept.
    """
    directory = find_run(store, run)
    facts = json.loads((directory / RUN).read_text(encoding="utf-8"))
    size = from_mapping(Preprocessing, facts["preprocessing"], where=str(directory / RUN))
    plain = Preprocessing(channels=size.channels, height=size.height, width=size.width)
    cache = open_or_build(store.root / "work" / "images", facts["corpus"], plain, progress=listener.reading)
    if cache.digest != facts["data_digest"]:
        raise InvalidCorpusError(
            f"the images of {facts['corpus']!r} have changed since run {directory.name} began; start a new run"
        )
    return _fit(store, _Run(directory=directory, cache=cache, facts=facts), listener=listener, resumed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    directory: Path
    cache: ImageCache
    facts: JsonObject


def _fit(store: Store, run: _Run, *, listener: Listener, resumed: bool) -> PretrainResult:
    directory, cache, facts = run.directory, run.cache, run.facts
    started = time.monotonic()
    config = from_mapping(PretrainConfig, facts["config"], where=str(directory / RUN))
    weights = _start_of(directory) if config.weights else None
    size = from_mapping(Preprocessing, facts["preprocessing"], where=RUN)
    module, sampler = make_module(config, cache, size, weights=weights)
    monitor = None
    bfloat16 = config.precision == "bfloat16"
    assert config.image_size is not None
    if KnnMonitor.fits(cache):
        monitor = KnnMonitor(cache, maker=module.maker, size=config.image_size, seed=config.seed, bfloat16=bfloat16)
    watch = Watch(directory, every_s=config.checkpoint_seconds, monitor=monitor, tell=listener.report)
    if monitor is not None:
        watch.history.baselines = _baselines(monitor, module, config)
        rows = ", ".join(f"{ROWS[name]} {100 * value:.1f}%" for name, value in watch.history.baselines.items())
        listener.said(f"kNN accuracy to beat: {rows}")
    loader = StepLoader(cache.x_NCHW, sampler, first_step=lambda: module.global_step)
    checkpoint = directory / CHECKPOINT if resumed and (directory / CHECKPOINT).is_file() else None
    if checkpoint is not None and (not zipfile.is_zipfile(checkpoint) or _bad_member(checkpoint)):
        raise CorruptArtifactError(f"{checkpoint} is damaged; remove it to begin run {directory.name} anew")
    with warnings.catch_warnings():
        # Lightning 2.6 meets a deprecation of torch 2.14 in its own code.
        warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
        # Frozen stages are in evaluation mode on purpose.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        trainer = _trainer(config, directory, watch)
        trainer.fit(module, train_dataloaders=loader, ckpt_path=checkpoint, weights_only=True)
        watch.measure_knn(module)
        watch.save(trainer, module)
    draw_curves(watch.history, directory / CURVES, title=f"{directory.name}: {config.method}, {config.encoder}")
    draw_views(cache, module.maker, directory / VIEWS, seed=config.seed)
    version = export(store, directory.name)
    return PretrainResult(
        encoder=version,
        run=directory.name,
        seconds=time.monotonic() - started,
        images=len(cache.x_NCHW),
        quarantined=len(cache.quarantine),
        state=watch.state(module),
    )


def _baselines(monitor: KnnMonitor, module: PretrainModule, config: PretrainConfig) -> dict[str, float]:
    torch.manual_seed(config.seed)
    untrained = create(**architecture_of(config)) if config.weights else module.backbone
    rows = {"pixels": monitor.pixels(), "random": monitor.random(untrained)}
    return rows | ({"start": monitor.encoder(module.backbone)} if config.weights else {})


def _start_of(directory: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(directory / START)
    except (OSError, SafetensorError) as error:
        raise CorruptArtifactError(
            f"{directory / START}, the weights that run {directory.name} began with, cannot be read: {error}; "
            "start a new run"
        ) from error
    return tensors


def _trainer(config: PretrainConfig, directory: Path, watch: Watch) -> lightning.Trainer:
    device = resolve_device(config.device)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logs = directory / "logs"
    name = f"{len(list(logs.glob('*'))):03d}"
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if config.precision == "bfloat16" else "32-true",
        max_epochs=1,
        min_epochs=0,
        logger=[CSVLogger(logs, name="", version=name), TensorBoardLogger(logs, name="", version=name)],
        callbacks=[watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


def _statistics(cache: ImageCache) -> tuple[tuple[float, ...], tuple[float, ...]]:
    x_NCHW = cache.x_NCHW[:: max(1, len(cache.x_NCHW) // _STATISTICS)].astype(np.float32) / 255.0
    mean_C, std_C = x_NCHW.mean(axis=(0, 2, 3)), x_NCHW.std(axis=(0, 2, 3))
    mean = tuple(round(float(value), 4) for value in mean_C)
    return mean, tuple(round(max(float(value), 0.05), 4) for value in std_C)


def _precision(config: PretrainConfig, backbone: Backbone, device: torch.device) -> ProbeResult:
    if config.precision != "auto":
        return ProbeResult(bfloat16=config.precision == "bfloat16", images_per_second={})
    architecture = architecture_of(config)
    return probe(backbone, channels=architecture["channels"], size=architecture["image_size"], device=device)


def _check_count(cache: ImageCache, corpus: str, *, least: int) -> None:
    if len(cache.x_NCHW) < least:
        raise InvalidCorpusError(
            f"{corpus!r} has {len(cache.x_NCHW)} images that can be decoded; pretraining needs at least {least}"
        )


def _chosen(config: PretrainConfig, cache: ImageCache, found: ProbeResult, device: torch.device) -> str:
    speeds = ", ".join(f"{name} {speed:.0f} images/s" for name, speed in found.images_per_second.items())
    return (
        f"{len(cache.x_NCHW)} images ({len(cache.quarantine)} quarantined) of {config.image_size} x "
        f"{config.image_size} x {config.channels}; {config.method} with {config.encoder} on {device} in "
        f"{config.precision}{f' (measured: {speeds})' if speeds else ''}"
    )


def _bad_member(path: Path) -> str | None:
    """Returns the first member of a checkpoint, which is a zip file, that does not have its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except zipfile.BadZipFile as error:
        return str(error)
