"""A masked autoencoder, after "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377.

Patches are hidden, and their pixels, normalised by patch, are predicted.

Differs: works with any backbone, so hidden patches are gray instead of left out, and the decoder
sees the embedding alone, which therefore has to say what is where; half of the patches are hidden.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from trainer.config import ViewConfig
from trainer.distributed import mean, own, world_size
from trainer.heads import projector
from trainer.method import LossTerms, Method, MethodContext, StepOutput, Views

_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the masked autoencoder."""

    hidden: int = 1024
    """Width of the decoder."""
    grid: int = 8
    """Patches along a side."""
    patch: int = 4
    """Side of a predicted patch in pixels."""
    masked: float = 0.5
    """Fraction of patches that are hidden, in (0, 1)."""


class MaskedAutoencoder(Method):
    """Predicts hidden patches from the embedding of the rest."""

    options: Options
    options_type: ClassVar[type] = Options
    views: ClassVar[ViewConfig] = ViewConfig(crop_scale=(0.5, 1.0), jitter=0.0, gray=0.0)
    gray_views: ClassVar[dict[str, Any]] = {}

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        pixels = options.grid**2 * options.patch**2 * context.channels
        self.decoder = projector((context.dimension, options.hidden, options.hidden, pixels))

    @override
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch; each view is masked by itself."""
        x_MCHW = torch.cat(views.full)
        grid, shape = self.options.grid, (len(views.full), len(views.rows_B))
        count = len(x_MCHW) * world_size()
        everyones_MGG = hidden_patches(count, grid, self.options.masked, views.generator)
        chosen_MGG = own(everyones_MGG.view(shape[0], -1, grid, grid), dim=1).flatten(0, 1)
        mask_M1HW = functional.interpolate(chosen_MGG[:, None].float(), size=x_MCHW.shape[2:], mode="nearest")
        y_MD = backbone(x_MCHW * (1 - mask_M1HW))
        predicted_MX = self.decoder(y_MD)
        with torch.autocast(x_MCHW.device.type, enabled=False):
            target_MPX = patches(x_MCHW, grid=grid, side=self.options.patch)
            predicted_MPX = predicted_MX.float().view(target_MPX.shape)
            total = mean(masked_error(predicted_MPX, target_MPX, chosen_MGG.flatten(1)))
        y_VBD = y_MD.detach().float().unflatten(0, shape)
        return StepOutput(loss=LossTerms(total=total, terms={"pixels": total}), embeddings=(y_VBD[0], y_VBD[1]))


METHOD = MaskedAutoencoder


def hidden_patches(count: int, grid: int, fraction: float, generator: torch.Generator) -> torch.Tensor:
    """Returns masks of shape (count, grid, grid), in each of which the same number of patches is true."""
    noise_MP = torch.rand(count, grid * grid, generator=generator, device=generator.device)
    hidden = max(1, round(fraction * grid * grid))
    order_MP = noise_MP.argsort(dim=1).argsort(dim=1)
    return (order_MP < hidden).view(count, grid, grid)


def patches(x_MCHW: torch.Tensor, *, grid: int, side: int) -> torch.Tensor:
    """Returns patches of shape (M, grid * grid, C * side * side), each normalised by itself (section 3)."""
    small = functional.interpolate(x_MCHW, size=(grid * side, grid * side), mode="bilinear", antialias=True)
    target_MPX = functional.unfold(small.contiguous(), kernel_size=side, stride=side).transpose(1, 2)
    centered = target_MPX - target_MPX.mean(dim=2, keepdim=True)
    return centered / (target_MPX.var(dim=2, keepdim=True) + _EPSILON).sqrt()


def masked_error(predicted_MPX: torch.Tensor, target_MPX: torch.Tensor, hidden_MP: torch.Tensor) -> torch.Tensor:
    """Returns the mean squared error over the hidden patches."""
    error_MP = (predicted_MPX - target_MPX).square().mean(dim=2)
    return (error_MP * hidden_MP).sum() / hidden_MP.sum()
