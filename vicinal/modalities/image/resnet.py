"""Small residual networks: the shape of ResNet-18 with a narrow width and a 3 x 3 stem.

"Deep Residual Learning for Image Recognition", arXiv:1512.03385, table 1, basic blocks.
Differs: width as asked; 3 x 3 stem of stride 1 or 2 and no max-pooling, for images of 28 to 128
pixels. The last normalisation of a block starts at one: starting at zero, as for long supervised
runs, cost 2.5 points of kNN accuracy in runs of a minute, as the branches never woke up.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from vicinal.modalities.image.convolution import Conv2d
from vicinal.modalities.image.whitening import Whitening

_GRID = 2
_PYRAMID = (4, 4, 2, 1)
"""Sides of the grids on which the four stages are read out."""
_DEPTHS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut.

    Args:
        channels_in: channels that come in.
        channels_out: channels that go out.
        stride: 1 or 2, of the first convolution and of the shortcut.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = Conv2d(channels_out, channels_out, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                Conv2d(channels_in, channels_out, 1, stride=stride), nn.BatchNorm2d(channels_out)
            )

    @override
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns the block's output, of half the height and width when the stride is 2."""
        y_BCHW = functional.relu(self.norm1(self.conv1(x_BCHW)), inplace=True)
        y_BCHW = self.norm2(self.conv2(y_BCHW))
        return functional.relu(y_BCHW + self.shortcut(x_BCHW))


class SmallResNet(nn.Module):
    """A residual network of four stages of width W, 2W, 4W, 8W.

    Args:
        depth: 10, 18 or 34.
        width: W, channels of the stem and of the first stage.
        channels: channels of the images.
        stem_stride: 1 or 2.
        layout: also hand out the third stage on a grid of 2 x 2, so that the embedding says what is where.
        white: begin with frozen whitening filters instead of learned ones.
    """

    def __init__(
        self, *, depth: int, width: int, channels: int, stem_stride: int, layout: bool, white: bool = False
    ) -> None:
        super().__init__()
        self.dimension = (8 + 4 * _GRID**2 if layout else 8) * width
        self.feature_dimension = sum((width << stage) * side**2 for stage, side in enumerate(_PYRAMID))
        self.layout = layout
        self.counts = _DEPTHS[depth]
        self.whitening = Whitening(channels, stride=stem_stride) if white else None
        if self.whitening is None:
            self.stem = Conv2d(channels, width, 3, stride=stem_stride, padding=1)
        else:
            self.stem = Conv2d(self.whitening.channels_out, width, 1)
        self.norm = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        channels_in = width
        for stage, count in enumerate(self.counts):
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                channels_out = width << stage
                blocks.append(BasicBlock(channels_in, channels_out, stride=stride))
                channels_in = channels_out
        last = self.counts[-1]
        self.blocks = nn.Sequential(*blocks[:-last])
        self.last = nn.Sequential(*blocks[-last:])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Returns stem and the four stages, in the order of the data."""
        blocks = [*self.blocks, *self.last]
        starts = [sum(self.counts[:stage]) for stage in range(len(self.counts))]
        groups = [tuple(blocks[start : start + count]) for start, count in zip(starts, self.counts, strict=True)]
        return ((self.stem, self.norm), *groups)

    @override
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns x_BD, the mean over the last feature map, and with layout the third stage's grid."""
        x_BCHW = self.blocks(self._begin(x_BCHW))
        y_BD: torch.Tensor = self.last(x_BCHW).mean(dim=(2, 3))
        if not self.layout:
            return y_BD
        grid_BD = functional.adaptive_avg_pool2d(x_BCHW, _GRID).flatten(1)
        return torch.cat([y_BD, grid_BD], dim=1)

    def features(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns x_BF, float32: every stage averaged over a grid, each brought to unit length and side by side."""
        x_BCHW = self._begin(x_BCHW)
        blocks, parts = iter([*self.blocks, *self.last]), []
        for count, side in zip(self.counts, _PYRAMID, strict=True):
            for block in itertools.islice(blocks, count):
                x_BCHW = block(x_BCHW)
            grid_BD = functional.adaptive_avg_pool2d(x_BCHW, side).flatten(1)
            parts.append(functional.normalize(grid_BD.float(), dim=1))
        return torch.cat(parts, dim=1)

    def _begin(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        if self.whitening is not None:
            x_BCHW = functional.relu(self.whitening(x_BCHW))
        return functional.relu(self.norm(self.stem(x_BCHW)), inplace=True)
