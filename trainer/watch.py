"""What watches a run: budget, health, checkpoints and the progress line."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from safetensors.torch import save_file
from typing_extensions import override

from trainer.distributed import agree
from trainer.health import Health, measure
from trainer.module import PretrainModule
from trainer.monitor import Accuracy, OnlineMonitor
from vicinal.artifact import storage_guard
from vicinal.errors import TrainingStoppedError
from vicinal.modalities.image.backbones import Backbone

CHECKPOINT, WEIGHTS, STATE = "last.ckpt", "last.safetensors", "last.json"
READOUT = "readout.safetensors"
"""Of the last checkpoint, once the run has ended."""
_CHECK_EVERY = 10
_LEAST_STD, _LEAST_RANK = 0.02, 1.5
_PATIENCE = 5
_STALL_CHECKS, _LEAST_CHANGE = 30, 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The state of a run, for one line."""

    step: int
    """Steps made."""
    progress: float
    """Fraction of the budget that is spent."""
    eta_s: float
    """Seconds left, estimated."""
    views_per_second: float
    """Since the last report."""
    terms: dict[str, float]
    """Loss terms, and the total as ``loss``."""
    health: Health
    """Of the backbone's embeddings of two views."""
    accuracy: Accuracy | None = None
    """The last online accuracies."""

    def line(self) -> str:
        """Returns one line for people."""
        terms = " ".join(f"{name} {value:.3f}" for name, value in self.terms.items())
        at = self.accuracy
        online = "" if at is None else f" knn {100 * at.knn:.1f}% linear {100 * at.linear:.1f}%"
        health = f"std {self.health.std:.2f} rank {self.health.rank:.0f} align {self.health.alignment:.2f} "
        return f"{terms} | {health}unif {self.health.uniformity:.2f}{online} | {self.views_per_second:.0f} views/s"


@dataclass(slots=True, kw_only=True)
class History:
    """What was seen during a run."""

    reports: list[Report] = field(default_factory=list)
    """Every report, oldest first."""
    online: list[dict[str, float]] = field(default_factory=list)
    """Online accuracies: step, progress, knn, linear."""
    readout: Accuracy | None = None
    """That of the readout, when the run has ended."""
    baselines: dict[str, Accuracy] = field(default_factory=dict)
    """Those of raw pixels, of the random encoder and of the weights it starts from, on the same sample."""


class Watch(lightning.Callback):
    """Stops at the end of the budget or when a run has gone bad; reports; keeps checkpoints.

    Args:
        directory: of the run.
        every_s: least seconds between checkpoints.
        monitor: online accuracy, where there are labels.
        tell: called with each report.
    """

    def __init__(
        self, directory: Path, *, every_s: float, monitor: OnlineMonitor | None, tell: Callable[[Report], None]
    ) -> None:
        self.directory = directory
        self.history = History()
        self._every_s = every_s
        self._monitor = monitor
        self._tell = tell
        self._saved_at = self._told_at = time.monotonic()
        self._told_views = 0
        self._bad = 0
        self._losses: list[float] = []
        self._due = [0.25, 0.5, 0.75]
        self._accuracy: Accuracy | None = None
        self._stopped: TrainingStoppedError | None = None
        self._abandoned = False

    @override
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the clocks."""
        assert isinstance(pl_module, PretrainModule)
        if pl_module.global_step == 0:
            pl_module.budget.start()
        self._saved_at = self._told_at = time.monotonic()
        self._told_views = pl_module.views_seen
        progress = pl_module.budget.progress(pl_module.global_step)
        self._due = [due for due in self._due if due > progress]

    @override
    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Looks at the step that was just made; the first process decides, and all do the same."""
        assert isinstance(pl_module, PretrainModule)
        step, budget = pl_module.global_step, pl_module.budget
        spent = budget.is_spent(step)
        if trainer.is_global_zero:
            self._lead(pl_module, step, spent=spent)
        due = time.monotonic() - self._saved_at >= self._every_s and self._bad == 0
        if (due or spent) and trainer.is_global_zero and self._stopped is None and not _is_finite(pl_module):
            # The step may have spoilt them although its loss was still a number.
            self._stopped = _diverged(pl_module, "what was learned is not finite", step)
        decisions = agree([spent, due, self._stopped is not None], device=pl_module.device)
        spent, due, stopped = (value > 0 for value in decisions)
        if stopped:
            self._abandoned = trainer.should_stop = True
        elif spent:
            trainer.should_stop = True
        elif due:
            self.save(trainer, pl_module)

    @override
    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measures and saves a last time."""
        assert isinstance(pl_module, PretrainModule)
        if self._abandoned:
            return
        if trainer.is_global_zero:
            self.measure(pl_module)
        self.save(trainer, pl_module)

    def raise_if_stopped(self) -> None:
        """Says why the run was stopped.

        Raises:
            TrainingStoppedError: it went bad.
        """
        if self._stopped is not None:
            raise self._stopped

    def _lead(self, module: PretrainModule, step: int, *, spent: bool) -> None:
        if step % _CHECK_EVERY == 0 or spent or step <= 2:
            try:
                self._look(module, step)
            except TrainingStoppedError as error:
                self._stopped = error
                return
        progress = module.budget.progress(step)
        if self._due and progress >= self._due[0] and not spent:
            self._due = [due for due in self._due if due > progress]
            self.measure(module)

    def measure(self, module: PretrainModule) -> None:
        """Measures the online accuracies, where there are labels."""
        if self._monitor is None:
            return
        self._accuracy = self._monitor.encoder(module.backbone)
        progress = module.budget.progress(module.global_step)
        self.history.online.append({"step": module.global_step, "progress": progress, **asdict(self._accuracy)})

    def read_out(self, module: PretrainModule) -> None:
        """Keeps the readout of a run that has ended, and measures it, where there are labels."""
        assert isinstance(module.backbone, Backbone)
        readout = module.backbone.readout
        assert readout is not None
        if self._monitor is not None:
            self.history.readout = self._monitor.encoder(module.backbone)
        with storage_guard(self.directory):
            self._write(READOUT, lambda path: save_file(_tensors(readout), path))
            self._write(STATE, lambda path: path.write_text(json.dumps(self.state(module)), encoding="utf-8"))

    def save(self, trainer: lightning.Trainer, module: PretrainModule) -> None:
        """Writes a checkpoint in place of the last one, whole or not at all; every process takes part."""
        self._saved_at = time.monotonic()
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.directory / f".{CHECKPOINT}")
            return
        with storage_guard(self.directory):
            for name, write in (
                (WEIGHTS, lambda path: save_file(_tensors(module.backbone), path)),
                (STATE, lambda path: path.write_text(json.dumps(self.state(module)), encoding="utf-8")),
                (CHECKPOINT, trainer.save_checkpoint),
            ):
                self._write(name, write)
        self._saved_at = time.monotonic()

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        temporary = self.directory / f".{name}"
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(self.directory / name)

    def state(self, module: PretrainModule) -> dict[str, Any]:
        """Returns step, speed, health and accuracies as JSON values."""
        last = self.history.reports[-1] if self.history.reports else None
        elapsed_s = module.budget.elapsed_s
        return {
            "step": module.global_step,
            "progress": module.budget.progress(module.global_step),
            "elapsed_s": elapsed_s,
            "views_seen": module.views_seen,
            "views_per_second": module.views_seen / max(elapsed_s, 1e-9),
            "health": asdict(last.health) if last else None,
            "terms": last.terms if last else None,
            "online": self.history.online,
            "readout": asdict(self.history.readout) if self.history.readout else None,
            "baselines": {name: asdict(accuracy) for name, accuracy in self.history.baselines.items()},
        }

    def _look(self, module: PretrainModule, step: int) -> None:
        assert module.last is not None
        loss = module.last.loss
        terms = {name: float(value.detach()) for name, value in {"loss": loss.total, **loss.terms}.items()}
        if not all(math.isfinite(value) for value in terms.values()):
            raise _diverged(module, f"the loss is {terms['loss']}", step)
        health = measure(*module.last.embeddings)
        self._check_collapse(module, health, step)
        self._check_stall(terms["loss"], step)
        now = time.monotonic()
        report = Report(
            step=step,
            progress=module.budget.progress(step),
            eta_s=module.budget.eta_s(step),
            views_per_second=(module.views_seen - self._told_views) / max(now - self._told_at, 1e-9),
            terms=terms,
            health=health,
            accuracy=self._accuracy,
        )
        self._told_at, self._told_views = now, module.views_seen
        self.history.reports.append(report)
        values = {**terms, **asdict(health), "views_per_second": report.views_per_second}
        for logger in module.loggers:
            logger.log_metrics(values | ({} if self._accuracy is None else asdict(self._accuracy)), step=step)
        self._tell(report)

    def _check_collapse(self, module: PretrainModule, health: Health, step: int) -> None:
        collapsed = health.std < _LEAST_STD or health.rank < _LEAST_RANK
        self._bad = self._bad + 1 if collapsed else 0
        if self._bad >= _PATIENCE:
            raise TrainingStoppedError(
                f"the embeddings have collapsed at step {step} (std {health.std:.3f}, effective rank "
                f"{health.rank:.1f}): all images look alike to the encoder; the last good checkpoint is kept; "
                f"try a smaller --set optimizer.lr={module.rates.lr / 3:.2g}, a larger batch, or --method simclr"
            )

    def _check_stall(self, loss: float, step: int) -> None:
        self._losses = [*self._losses[-_STALL_CHECKS:], loss]
        spread = max(self._losses) - min(self._losses)
        if len(self._losses) > _STALL_CHECKS and spread <= _LEAST_CHANGE * abs(loss):
            raise TrainingStoppedError(
                f"training has stalled at step {step}: the loss has been {loss:.4g} for {_STALL_CHECKS * _CHECK_EVERY} "
                "steps; the last good checkpoint is kept; try a larger --set optimizer.lr, or other images: "
                "these may all be the same"
            )


def _diverged(module: PretrainModule, what: str, step: int) -> TrainingStoppedError:
    return TrainingStoppedError(
        f"{what} at step {step}: training has diverged; the last good checkpoint is kept; "
        f"try --set optimizer.lr={module.rates.lr / 3:.2g} or --set precision=float32"
    )


def _is_finite(module: torch.nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values())


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
