"""A first convolution that is computed from the images and not learned: their patches, decorrelated.

As in the fast CIFAR-10 speed-runs (K. Jordan, "94% on CIFAR-10 in 3.29 seconds", arXiv:2404.00498,
section 3.1): the filters are the eigenvectors of the covariance of patches, each divided by the root
of its eigenvalue, and their negatives.

Differs: 3 x 3 patches; a learned 1 x 1 convolution follows, so that the width is free.
"""

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

_EPSILON = 5e-4
"""Added to the eigenvalues, in units of their mean: patches of noise are not blown up."""


class Whitening(nn.Module):
    """Frozen filters; random until ``fit``.

    Args:
        channels: channels of the images.
        kernel_size: side of the patches.
        stride: of both axes.
    """

    weight: torch.Tensor

    def __init__(self, channels: int, *, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        count = channels * kernel_size**2
        self.channels_out = 2 * count
        self.stride = stride
        half = torch.empty(count, channels, kernel_size, kernel_size)
        nn.init.orthogonal_(half)
        self.register_buffer("weight", torch.cat([half, -half]))

    @torch.no_grad()
    def fit(self, x_BCHW: torch.Tensor) -> None:
        """Sets the filters.

        Args:
            x_BCHW: images as the network gets them, normalised; some thousands are enough.
        """
        side = self.weight.shape[-1]
        patches_PD = functional.unfold(x_BCHW.double(), side).transpose(1, 2).flatten(0, 1)
        patches_PD = patches_PD - patches_PD.mean(dim=0)
        values_D, vectors_DD = torch.linalg.eigh(patches_PD.t() @ patches_PD / len(patches_PD))
        scale_D = (values_D.clamp(min=0) + _EPSILON * values_D.mean()).rsqrt()
        half = (vectors_DD * scale_D).t().flip(0).reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([half, -half]))

    @override
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns y_BCHW with 2 * channels * kernel_size^2 channels."""
        return functional.conv2d(x_BCHW, self.weight, stride=self.stride, padding=self.weight.shape[-1] // 2)
