"""The LightningModule: views, method, optimiser and schedule of one step."""

from dataclasses import dataclass, replace
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from typing_extensions import override

from trainer import optimizer
from trainer.budget import Budget
from trainer.config import OptimizerConfig
from trainer.data import Batch
from trainer.distributed import agree, world_size
from trainer.method import Method, StepOutput
from trainer.views import ViewMaker
from vicinal.errors import InvalidArgumentError

_SEED_STRIDE = 1_000_003
_PROCESSES = 1024
_EVERYONE = _PROCESSES - 1


class PretrainModule(lightning.LightningModule):
    """Trains a backbone by a method.

    Args:
        backbone: what is trained.
        method: how.
        maker: draws the views.
        rates: the optimiser.
        budget: the clock of every schedule.
        plan: sizes of the run.
    """

    def __init__(
        self,
        backbone: nn.Module,
        method: Method,
        *,
        maker: ViewMaker,
        rates: OptimizerConfig,
        budget: Budget,
        plan: "Plan",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.method = method
        self.maker = maker
        self.rates = rates
        self.budget = budget
        self.plan = plan
        self.last: StepOutput | None = None
        self.views_seen = 0
        self._progress = 0.0

    @override
    def configure_optimizers(self) -> optimizer.MixedOptimizer:
        """Returns the one optimiser of backbone and method."""
        return optimizer.create(
            self.rates,
            [self.backbone, self.method],
            batch_size=self.plan.batch_size,
            scales=(self.plan.backbone_rate, 1.0),
        )

    @override
    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a batch."""
        return Batch(x_BCHW=batch.x_BCHW.to(device), rows_B=batch.rows_B.to(device), step=batch.step)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Returns the loss of a batch; sets this step's learning rate first."""
        assert batch.step == self.global_step, "the loader and the trainer count the same steps"
        self._progress = progress = self._agreed_progress(batch.step)
        for opt in self.trainer.optimizers:
            assert isinstance(opt, optimizer.MixedOptimizer)
            opt.set_factor(optimizer.factor(self.rates, progress))
        with torch.autocast(self.device.type, enabled=False):
            views = self.maker(
                batch.x_BCHW,
                rows_B=batch.rows_B,
                size=self.plan.size(progress),
                generator=self._generator(batch.step, process=self.global_rank),
                plain=self.method.needs_plain,
            )
        views = replace(views, generator=self._generator(batch.step, process=_EVERYONE))
        self.last = self.method.step(self.backbone, views)
        self.views_seen += (len(views.full) + len(views.local)) * len(batch.rows_B) * world_size()
        return self.last.loss.total

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Makes the update, then lets teachers follow, before anything looks at the step or saves it."""
        super().optimizer_step(*args, **kwargs)
        self.method.after_step(self.backbone, progress=self._progress)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the time that is spent."""
        checkpoint["vicinal"] = {
            "elapsed_s": self.budget.elapsed_s,
            "views_seen": self.views_seen,
            "method": type(self.method).__name__,
        }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from the time that was spent."""
        facts = checkpoint["vicinal"]
        if facts["method"] != type(self.method).__name__:
            raise InvalidArgumentError(
                f"the checkpoint is of {facts['method']}, this run is of {type(self.method).__name__}; start a new run"
            )
        self.budget.start(elapsed_s=float(facts["elapsed_s"]))
        self.views_seen = int(facts["views_seen"])

    def _agreed_progress(self, step: int) -> float:
        progress = self.budget.progress(step)
        # Steps are the same everywhere, clocks are not.
        return progress if self.budget.steps is not None else agree([progress], device=self.device)[0]

    def _generator(self, step: int, *, process: int) -> torch.Generator:
        # A generator for each step: nothing of the random state has to be kept.
        generator = torch.Generator(device=self.device)
        generator.manual_seed((self.plan.seed * _SEED_STRIDE + step) * _PROCESSES + process)
        return generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of a run."""

    sizes: tuple[int, ...]
    """Sides of the views over equal parts of the budget, in pixels."""
    batch_size: int
    """Images in a step, over all processes."""
    seed: int
    """Of the views."""
    backbone_rate: float = 1.0
    """Learning rate of the backbone relative to the rest."""

    def size(self, progress: float) -> int:
        """Returns the side of the views in pixels."""
        return self.sizes[min(int(progress * len(self.sizes)), len(self.sizes) - 1)]
