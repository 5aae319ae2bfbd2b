"""A run from its directory to its encoder: module, watch, logs, Lightning, pictures, export."""

import logging
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainer import device as machine
from trainer.cache import ImageCache
from trainer.config import PretrainConfig
from trainer.data import StepLoader
from trainer.export import RUN, export
from trainer.launch import is_leader, sharing
from trainer.listener import Listener
from trainer.module import PretrainModule
from trainer.monitor import Accuracy, OnlineMonitor
from trainer.pictures import CURVES, VIEWS, draw_curves, draw_views
from trainer.readout import SMALL_SAMPLE, ReadoutConfig, Sample, fit_readout, sample_size
from trainer.setup import architecture_of, make_module
from trainer.start import START
from trainer.watch import CHECKPOINT, READOUT, History, Watch
from vicinal.config import from_mapping
from vicinal.errors import CorruptArtifactError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import Backbone, create
from vicinal.store import Store
from vicinal.types import JsonObject

ROWS = {
    "pixels": "raw pixels",
    "random": "random encoder",
    "random_readout": "random encoder, read out",
    "start": "the weights it starts from",
}
"""What baselines are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that has begun: its directory holds everything that it is made of."""

    directory: Path
    """``runs/NAME`` of the workspace."""
    cache: ImageCache
    """The images."""
    facts: JsonObject
    """What ``run.json`` says."""


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
    advice: str = ""
    """What to know before this encoder is used: that something simpler was better."""


def fit(store: Store, run: Run, *, listener: Listener, resumed: bool) -> PretrainResult | None:
    """Trains a run to its end, and commits its encoder to the store.

    Args:
        store: the workspace.
        run: what is trained.
        listener: who is told how it goes.
        resumed: go on from the last checkpoint, where there is one.

    Returns:
        What came of it; None in the processes that do not lead.

    Raises:
        CorruptArtifactError: the checkpoint, or the weights that it began with, are damaged.
        TrainingStoppedError: the run went bad; its last good checkpoint is kept.
    """
    directory, facts, started = run.directory, run.facts, time.monotonic()
    config = from_mapping(PretrainConfig, facts["config"], where=str(directory / RUN))
    weights = _start_of(directory) if config.weights else None
    size = from_mapping(Preprocessing, facts["preprocessing"], where=RUN)
    module, sampler = make_module(config, run.cache, size, weights=weights)
    monitor = _monitor(config, run.cache, module) if is_leader() else None
    watch = Watch(directory, every_s=config.checkpoint_seconds, monitor=monitor, tell=listener.report)
    if monitor is not None:
        reader = _reader(config, run.cache, size, count=SMALL_SAMPLE)
        watch.history.baselines = _baselines(monitor, module, config, reader)
        rows = (f"{ROWS[name]} {at.text()}" for name, at in watch.history.baselines.items())
        listener.said(f"accuracy to beat, kNN and linear: {', '.join(rows)}")
    checkpoint = _checkpoint(directory) if resumed else None
    loader = StepLoader(
        run.cache.x_NCHW,
        sampler,
        first_step=lambda: module.global_step,
        device=lambda: module.device,
        prefetch=config.workers != 0,
    )
    (directory / READOUT).unlink(missing_ok=True)
    _train(config, module, watch, loader, checkpoint=checkpoint)
    if not is_leader():
        return None
    if config.dimension:
        listener.said(f"reading {config.dimension} dimensions out of all stages")
        _reader(config, run.cache, size, count=sample_size(module.views_seen))(_network(module))
        watch.read_out(module)
    if watch.history.reports:
        # None where the run was interrupted behind its last step.
        draw_curves(watch.history, directory / CURVES, title=f"{directory.name}: {config.method}, {config.encoder}")
    draw_views(run.cache, module.maker, directory / VIEWS, seed=config.seed)
    return PretrainResult(
        encoder=export(store, directory.name),
        run=directory.name,
        seconds=time.monotonic() - started,
        images=len(run.cache.x_NCHW),
        quarantined=len(run.cache.quarantine),
        state=watch.state(module),
        advice=_advice(config, watch.history),
    )


def _advice(config: PretrainConfig, history: History) -> str:
    """Says plainly when what was there before any training is better by nearest neighbors."""
    if not history.online:
        return ""
    # The weights were measured by the network's own embedding; so is what became of them.
    network = history.online[-1]["knn"]
    knn = network if history.readout is None else history.readout.knn
    mine = {"start": network}
    better = {name: at.knn for name, at in history.baselines.items() if at.knn > mine.get(name, knn)}
    if "start" in better:
        keep = f"vicinal export --weights {config.weights} --backbone {config.encoder} --image-size {config.image_size}"
        return (
            f"the weights it starts from were better, kNN {100 * better['start']:.1f}% against {100 * network:.1f}%: "
            f"use them as they are ({keep}), or train longer or more gently (--set backbone_rate=0.001)"
        )
    if better:
        name = max(better, key=lambda row: better[row])
        return (
            f"better is: {ROWS[name]}, kNN {100 * better[name]:.1f}% against {100 * knn:.1f}%; "
            "this encoder is of no use yet: train longer, or on more images"
        )
    return ""


def _train(
    config: PretrainConfig, module: PretrainModule, watch: Watch, loader: StepLoader, *, checkpoint: Path | None
) -> None:
    threads = torch.get_num_threads()
    if machine.should_compile(config):
        module.backbone.compile(dynamic=False)
    with warnings.catch_warnings(), sharing(watch.directory.name):
        # Lightning 2.6 meets a deprecation of torch 2.14 in its own code; frozen stages are in evaluation mode.
        warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        try:
            trainer = _trainer(config, watch)
            trainer.fit(module, train_dataloaders=loader, ckpt_path=checkpoint, weights_only=True)
        finally:
            torch.set_num_threads(threads)
    watch.raise_if_stopped()


def _monitor(config: PretrainConfig, cache: ImageCache, module: PretrainModule) -> OnlineMonitor | None:
    if not OnlineMonitor.fits(cache):
        return None
    assert config.image_size is not None
    bfloat16 = config.precision == "bfloat16"
    return OnlineMonitor(cache, maker=module.maker, size=config.image_size, seed=config.seed, bfloat16=bfloat16)


def _network(module: PretrainModule) -> Backbone:
    assert isinstance(module.backbone, Backbone)
    return module.backbone


def _reader(
    config: PretrainConfig, cache: ImageCache, size: Preprocessing, *, count: int
) -> Callable[[Backbone], None]:
    """Returns what makes the readout of a network, from so many images."""
    settings = ReadoutConfig(
        dimension=config.dimension or 0,
        seed=config.seed,
        mirror=bool(config.views.get("flip")),
        bfloat16=config.precision == "bfloat16",
    )
    some = Sample(cache.x_NCHW, count=count, seed=config.seed)
    return lambda backbone: fit_readout(backbone, some, size.normalize, settings)


def _baselines(
    monitor: OnlineMonitor, module: PretrainModule, config: PretrainConfig, read_out: Callable[[Backbone], None]
) -> dict[str, Accuracy]:
    untrained = _network(module)
    if config.weights:
        torch.manual_seed(config.seed)
        untrained = create(**architecture_of(config))
    rows = {"pixels": monitor.pixels(), "random": monitor.random(untrained)}
    if config.dimension:
        # A readout alone does much: what counts is what training adds to it.
        rows["random_readout"] = monitor.random(untrained, prepare=read_out)
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


def _checkpoint(directory: Path) -> Path | None:
    path = directory / CHECKPOINT
    if not path.is_file():
        return None
    if not zipfile.is_zipfile(path) or _bad_member(path):
        raise CorruptArtifactError(f"{path} is damaged; remove it to begin run {directory.name} anew")
    return path


def _bad_member(path: Path) -> str | None:
    """Returns the first member of a checkpoint, which is a zip file, that does not have its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except zipfile.BadZipFile as error:
        return str(error)


def _trainer(config: PretrainConfig, watch: Watch) -> lightning.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logs = watch.directory / "logs"
    name = f"{len(list(logs.glob('*'))):03d}"
    return lightning.Trainer(
        **machine.trainer_options(config),
        max_epochs=1,
        min_epochs=0,
        logger=[CSVLogger(logs, name="", version=name), TensorBoardLogger(logs, name="", version=name)],
        callbacks=[machine.Tuning(config.threads), watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
