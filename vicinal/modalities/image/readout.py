"""What a spectral readout is made of: principal axes of an image's features, and where it lies among all images."""

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

_HIDDEN = 1024


class SpectralReadout(nn.Module):
    """Maps features to principal axes and, beside them, to spectral coordinates; filled by ``trainer.readout``.

    Args:
        features: F, of all stages.
        dimension: D of the embedding.
        spectral: S of its D that are spectral coordinates.
    """

    share: torch.Tensor
    """Length of the spectral coordinates where that of the axes is 1."""

    def __init__(self, features: int, *, dimension: int, spectral: int) -> None:
        super().__init__()
        self.axes = nn.Linear(features, dimension - spectral)
        self.coordinates = nn.Sequential(
            nn.Linear(dimension - spectral, _HIDDEN),
            nn.BatchNorm1d(_HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, spectral),
        )
        self.register_buffer("share", torch.zeros(()))

    @override
    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        """Returns x_BD, of unit length."""
        axes_BA = self.project(x_BF)
        joined_BD = torch.cat([axes_BA, self.share * self.locate(axes_BA)], dim=1)
        return joined_BD / (1 + self.share.square()).sqrt()

    def project(self, x_BF: torch.Tensor) -> torch.Tensor:
        """Returns features on the axes, of unit length."""
        return functional.normalize(self.axes(x_BF), dim=1)

    def locate(self, axes_BA: torch.Tensor) -> torch.Tensor:
        """Returns the spectral coordinates of what ``project`` gives, of unit length."""
        # Numbers of about one, so that a learning rate means the same whatever the dimension is.
        return functional.normalize(self.coordinates(axes_BA * axes_BA.shape[1] ** 0.5), dim=1)
