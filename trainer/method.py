"""What a self-supervised method is: arithmetic on views; one file of ``trainer.methods`` each.

A plugin has the attribute ``METHOD``, a subclass of ``Method``. It gets the backbone and the views
of one global batch (this process's share of it), and returns named loss terms and embeddings. It
takes its device from its input, reads no configuration but its own options, and logs nothing.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import override

from trainer.config import OptimizerConfig, ViewConfig
from vicinal import plugins
from vicinal.config import from_mapping
from vicinal.errors import InvalidConfigError

FAMILY = "trainer.methods"
_MOST = 1 << 20
_SHARE = (0.0, 1.0)
_DIVISOR = (1e-6, 1e6)
_RANGES = {
    "temperature": _DIVISOR,
    "epsilon": _DIVISOR,
    "momentum": _SHARE,
    "memory": _SHARE,
    "masked": _SHARE,
    "weight": _SHARE,
    "begin": _SHARE,
}
"""Of an option by the last word of its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """A loss and what it is made of, so that no collapse hides in one number."""

    total: torch.Tensor
    """Scalar to be minimised."""
    terms: dict[str, torch.Tensor] = field(default_factory=dict)
    """Named scalars, detached from no graph; they need not add up to the total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Views of a batch of images."""

    full: tuple[torch.Tensor, ...]
    """V tensors x_BCHW of full size, normalised."""
    local: tuple[torch.Tensor, ...] = ()
    """Smaller views x_BChw."""
    plain_BCHW: torch.Tensor | None = None
    """The images themselves at full size, float in [0, 1]; only where the method asks for them."""
    rows_B: torch.Tensor
    """Row numbers of the images in the data set, int64."""
    generator: torch.Generator
    """For draws of the method's own, for the images of all processes; seeded by run seed and step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """What a method returns for a batch."""

    loss: LossTerms
    """To be minimised."""
    embeddings: tuple[torch.Tensor, torch.Tensor]
    """Backbone embeddings x_BD of two views (or twice the same), detached, for the health monitor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodContext:
    """What a method may need to know when it is made."""

    dimension: int
    """D of the backbone's embeddings."""
    image_count: int
    """Images in the data set, N."""
    channels: int
    """Channels of the images."""
    image_size: int
    """Side of the views of full size."""
    batch_size: int
    """Images in a step, over all processes."""
    backbone: nn.Module
    """The backbone, freshly initialised; to be copied by teachers, never kept."""


class Method(nn.Module, abc.ABC):
    """Base of every method.

    Args:
        options: of ``options_type``.
        context: what it may need to know.
    """

    options_type: ClassVar[type]
    """A frozen dataclass of options with defaults."""
    views: ClassVar[ViewConfig] = ViewConfig()
    """The views that suit it."""
    any_views: ClassVar[bool] = False
    """Whether it takes any number of full views from 2 on, and of smaller ones; else as many as ``views`` has."""
    gray_views: ClassVar[dict[str, Any]] = {
        "crop_scale": (0.4, 1.0),
        "jitter": 1.0,
        "brightness": 0.8,
        "contrast": 0.8,
        "solarize": (0.1,),
    }
    """Changes to the views for gray images: without colour to jitter, light is jittered more. On a validation split of
    Fashion-MNIST's training images that gave 2.8 points of kNN accuracy; on CIFAR-10, in colour, it cost 3."""
    gray_options: ClassVar[dict[str, Any]] = {}
    """Changes to the options for gray images."""
    optimizer: ClassVar[OptimizerConfig] = OptimizerConfig()
    """The optimiser that suits it."""
    needs_plain: ClassVar[bool] = False
    """Whether it wants the images themselves beside the views."""
    least_batch: ClassVar[int] = 2
    """Fewest images in a step that it can work with."""

    def __init__(self, options: Any, context: MethodContext) -> None:
        super().__init__()
        self.options = options
        self.dimension = context.dimension

    @abc.abstractmethod
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch, with gradients to the backbone and to itself."""

    def after_step(self, backbone: nn.Module, *, progress: float) -> None:
        """Called after each optimiser step; teachers follow here.

        Args:
            backbone: the student.
            progress: fraction of the budget that is spent, in [0, 1].
        """


class JointMethod(Method):
    """A method that passes all views through backbone and projector, and compares.

    Subclasses set ``self.projector`` and define ``loss``.
    """

    projector: nn.Module

    @abc.abstractmethod
    def loss(self, z_VBD: torch.Tensor) -> LossTerms:
        """Returns the loss of the projections of this process's views, full ones first, float32."""

    @override
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch, with gradients to the backbone and to itself."""
        y_VBD, z_VBD = forward_views(backbone, self.projector, views)
        # Losses are computed in float32: a softmax over similarities does not survive bfloat16.
        with torch.autocast(z_VBD.device.type, enabled=False):
            loss = self.loss(z_VBD.float())
        return StepOutput(loss=loss, embeddings=(y_VBD[0], y_VBD[1]))


def forward_views(backbone: nn.Module, head: nn.Module, views: Views) -> tuple[torch.Tensor, torch.Tensor]:
    """Passes full views in one batch and smaller views in another, then all through a head.

    Returns:
        Embeddings of the full views y_VBD, float32, detached; outputs of the head for all views, (V, B, K),
        full views first.
    """
    count, batch = len(views.full), len(views.rows_B)
    full_MD = backbone(torch.cat(views.full))
    parts = [full_MD, backbone(torch.cat(views.local))] if views.local else [full_MD]
    outputs = head(torch.cat(parts)).unflatten(0, (count + len(views.local), batch))
    return full_MD.detach().float().unflatten(0, (count, batch)), outputs


def load(name: str) -> type[Method]:
    """Returns the class of a method.

    Raises:
        InvalidArgumentError: no such method; the message suggests one.
    """
    method: type[Method] = plugins.load(FAMILY, name).METHOD
    return method


def create(name: str, options: Mapping[str, Any], context: MethodContext) -> Method:
    """Makes a method.

    Args:
        name: a plugin of ``trainer.methods``.
        options: changes to its options.
        context: what it may need to know.

    Raises:
        InvalidArgumentError: no such method.
        InvalidConfigError: an unknown option or a wrong value.
    """
    cls = load(name)
    typed: Any = from_mapping(cls.options_type, options, where=f"method_options of {name}")
    for option in fields(typed):
        _check(option.name, getattr(typed, option.name))
    return cls(typed, context)


def _check(name: str, value: Any) -> None:
    """Refuses a number that no method works with: what is counted is 1 or more, the rest finite and not negative."""
    if isinstance(value, bool | str):
        return
    kind = name.rpartition("_")[2]
    low, high = (1, _MOST) if isinstance(value, int) else _RANGES.get(kind, (0.0, 1e6))
    if not low <= value <= high:
        message = f"method_options.{name} is {value}, wanted a number from {low:g} to {high:g}"
        raise InvalidConfigError(message, field=f"method_options.{name}")
