"""What a pretraining run is made of; the resolved form is written into the run before it starts."""

from dataclasses import dataclass, field
from typing import Any, Literal

from vicinal.errors import InvalidConfigError

_STEP_VIEWS = 512


def _within(section: str, values: dict[str, float], *, low: float, high: float) -> None:
    for name, value in values.items():
        # Not a number is in no range.
        if not low <= value <= high:
            field_name = f"{section}.{name}"
            raise InvalidConfigError(f"{field_name} is {value:g}, wanted {low:g} to {high:g}", field=field_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """How long to train; exactly one is set."""

    minutes: float | None = None
    """Wall-clock minutes of training, reading the corpus not included."""
    epochs: float | None = None
    """Passes over the images."""
    steps: int | None = None
    """Optimiser steps."""

    def __post_init__(self) -> None:
        """Refuses none, several, or what is not positive."""
        given = [value for value in (self.minutes, self.epochs, self.steps) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise InvalidConfigError("give one of --minutes, --epochs, --steps, above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewConfig:
    """How views are drawn from an image; probabilities in [0, 1]."""

    count: int = 2
    """Views of full size, V."""
    local_count: int = 0
    """Further, smaller views (multi-crop, arXiv:2006.09882)."""
    local_ratio: float = 0.5
    """Side of a smaller view, as a fraction of the full one."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of a crop, as a fraction of the image."""
    local_scale: tuple[float, float] = (0.08, 0.25)
    """The same for the smaller views."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a crop."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    vertical_flip: float = 0.0
    """Probability of an upside-down flip."""
    jitter: float = 0.8
    """Probability of colour jitter."""
    brightness: float = 0.4
    """Brightness factor in 1 - b to 1 + b."""
    contrast: float = 0.4
    """Contrast factor in 1 - c to 1 + c."""
    saturation: float = 0.4
    """Saturation factor in 1 - s to 1 + s; no meaning for gray images."""
    hue: float = 0.1
    """Hue shift in -h to h of the colour circle, at most 0.5; no meaning for gray images."""
    gray: float = 0.2
    """Probability of grayscale; no meaning for gray images."""
    blur: tuple[float, ...] = (0.0,)
    """Probability of Gaussian blur; one for all views or one for each."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur in pixels of a view of 224; scaled with the view."""
    solarize: tuple[float, ...] = (0.0,)
    """Probability of solarisation above one half; one for all views or one for each."""

    def __post_init__(self) -> None:
        """Refuses what cannot be drawn."""
        _within("views", {"count": self.count}, low=1, high=64)
        _within("views", {"local_count": self.local_count}, low=0, high=64)
        single = ("flip", "vertical_flip", "jitter", "brightness", "contrast", "saturation", "gray", "local_ratio")
        _within("views", {name: getattr(self, name) for name in single}, low=0, high=1)
        _within("views", {"hue": self.hue}, low=0, high=0.5)
        for name in ("blur", "solarize"):
            values = getattr(self, name)
            if not values:
                wanted = "a number, or one for each view"
                raise InvalidConfigError(f"views.{name} is empty, wanted {wanted}", field=f"views.{name}")
            for value in values:
                _within("views", {name: value}, low=0, high=1)
        for name, most in (("crop_scale", 1.0), ("local_scale", 1.0), ("crop_ratio", 100.0), ("blur_sigma", 100.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                wanted = f"two numbers above 0 and at most {most:g}, the smaller first"
                raise InvalidConfigError(f"views.{name} is {low:g}, {high:g}, wanted {wanted}", field=f"views.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """The optimiser and its schedule over the fraction of the budget that is spent."""

    name: Literal["muon", "sgd", "lars", "adamw"] = "muon"
    """Muon takes the matrices and kernels, AdamW what is left; the others take all."""
    lr: float = 0.03
    """Peak learning rate: of Muon, relative to the norm of a weight; for a batch of 256 for the others."""
    adam_lr: float = 2e-3
    """Peak learning rate of the AdamW beside Muon."""
    iterations: int = 3
    """Newton-Schulz iterations of Muon."""
    heads: Literal["muon", "adamw"] = "muon"
    """What takes the matrices of the method's own networks, beside Muon for the backbone's."""
    momentum: float = 0.9
    """Momentum of Muon, SGD and LARS."""
    weight_decay: float = 1e-4
    """Decay of matrices and kernels; biases and normalisation have none."""
    warmup: float = 0.03
    """Fraction of the budget in which the rate rises from 0."""
    final: float = 0.0
    """Rate at the end, as a fraction of the peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""

    def __post_init__(self) -> None:
        """Refuses what cannot train."""
        _within("optimizer", {"lr": self.lr, "adam_lr": self.adam_lr}, low=0, high=1e6)
        _within("optimizer", {"iterations": self.iterations}, low=1, high=20)
        _within("optimizer", {"momentum": self.momentum, "warmup": self.warmup}, low=0, high=0.9999)
        _within("optimizer", {"weight_decay": self.weight_decay, "final": self.final}, low=0, high=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """A pretraining run."""

    budget: BudgetConfig
    """How long."""
    method: str = "simclr"
    """A plugin of ``trainer.methods``."""
    method_options: dict[str, Any] = field(default_factory=dict)
    """Options of the method, as its ``Options`` has them."""
    encoder: str = "auto"
    """A backbone by name, or ``auto``."""
    weights: str = ""
    """What to start from: an encoder of the workspace, a safetensors file, a torchvision enum; empty: from scratch."""
    backbone_rate: float | None = None
    """Learning rate of the backbone relative to the rest; None: 0.01 from weights, else 1."""
    frozen_stages: int = 0
    """Stages of the backbone that stay as they are, from the stem on."""
    image_size: int | None = None
    """Side of the images in pixels; None: from the images."""
    channels: int | None = None
    """1 or 3; None: from the images."""
    dimension: int | None = None
    """Dimension of the embeddings that are read out of all stages when training ends; 0: as the network gives them;
    None: at most 768 of the small residual networks from 1,000 images on; from weights, as they had it; else 0."""
    resolutions: tuple[float, ...] = (0.75, 0.875, 1.0)
    """Sides of the views over equal parts of the budget, as fractions of the full side."""
    batch_size: int | None = None
    """Images in a step, over all processes; None: 512 divided by the full views of each, or the largest power of two
    that fits into memory."""
    seed: int = 0
    """Of initialisation, sampling and views."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward and backward passes; ``auto`` measures."""
    device: str = "auto"
    """``auto`` (all GPUs, else the CPU), ``cpu``, ``cuda``, or one GPU by its number, as ``cuda:1``."""
    devices: int | None = None
    """Processes of each node that share a batch; None: one for each GPU, one on a CPU."""
    nodes: int = 1
    """Machines that share a batch."""
    channels_last: bool | None = None
    """Whether images and weights lie with their channels last; None: measured."""
    threads: int | None = None
    """CPU threads of each process; None: measured."""
    workers: int | None = None
    """Threads that read ahead, 0 or 1; None: measured."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the backbone is compiled; ``auto``: on a GPU in long runs."""
    metric: Literal["cosine", "inner_product", "l2"] = "cosine"
    """How the embeddings will be compared."""
    checkpoint_seconds: float = 60.0
    """Least seconds between two checkpoints."""
    views: dict[str, Any] = field(default_factory=dict)
    """Changes to the method's views, as ``ViewConfig`` has them."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """Changes to the method's optimiser, as ``OptimizerConfig`` has them."""

    def __post_init__(self) -> None:
        """Refuses what cannot work."""
        counts = {"devices": self.devices, "nodes": self.nodes, "threads": self.threads}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise InvalidConfigError(f"{name} is {value}, wanted 1 or more", field=name)
        if self.workers not in {None, 0, 1}:
            raise InvalidConfigError(f"workers is {self.workers}, wanted 0 or 1", field="workers")
        self._check_images()

    @property
    def batch(self) -> int:
        """Images in a step, over all processes, that are wanted; of a resolved configuration."""
        return self.batch_size or max(2, _STEP_VIEWS // int(self.views.get("count", 2)))

    def _check_images(self) -> None:
        if self.batch_size is not None and self.batch_size < 2:
            raise InvalidConfigError(f"batch_size is {self.batch_size}, wanted 2 or more", field="batch_size")
        if self.backbone_rate is not None and not 0 < self.backbone_rate <= 100:
            raise InvalidConfigError(f"backbone_rate is {self.backbone_rate}, wanted above 0", field="backbone_rate")
        if self.frozen_stages and not self.weights:
            raise InvalidConfigError("frozen_stages needs --weights: what is random is not worth keeping")
        if self.channels not in {None, 1, 3}:
            raise InvalidConfigError(f"channels is {self.channels}, wanted 1 or 3", field="channels")
        if self.dimension is not None and self.dimension < 0:
            raise InvalidConfigError(f"dimension is {self.dimension}, wanted 0 or more", field="dimension")
        if self.image_size is not None and not 8 <= self.image_size <= 1024:
            raise InvalidConfigError(f"image_size is {self.image_size}, wanted 8 to 1024", field="image_size")
        if not self.resolutions or min(self.resolutions) <= 0.2 or max(self.resolutions) > 1:
            raise InvalidConfigError("resolutions must be fractions above 0.2 and at most 1", field="resolutions")
