"""EfficientNet-Lite0: inverted bottlenecks without squeeze-and-excitation, with ReLU6.

"EfficientNet", arXiv:1905.11946, table 1, in the Lite form that its authors published for phones in 2020.
Padding is TensorFlow's ``SAME``, so that the published weights mean what they meant; the names of the
state are the published ones without leading underscores.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""The normalisation of the published weights, for values in [0, 1]."""
DIMENSION = 1280


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = tuple(
    _Stage(repeats=repeats, kernel=kernel, stride=stride, expansion=expansion, channels=channels)
    for repeats, kernel, stride, expansion, channels in (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
)
_STEM = 32


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's ``SAME`` padding: what is odd goes to the right and the bottom.

    Args:
        channels_in: channels that come in.
        channels_out: channels that go out.
        kernel_size: side of the kernel.
        stride: of both axes.
        groups: of channels.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels_in, channels_out, kernel_size, stride=stride, groups=groups, bias=False)

    @override
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns y_BCHW of the input's height and width over the stride, rounded up."""
        (top, bottom), (left, right) = (self._spare(side) for side in input.shape[2:])
        if (top, left) == (bottom, right):
            return functional.conv2d(input, self.weight, None, self.stride, (top, left), groups=self.groups)
        padded = functional.pad(input, (left, right, top, bottom))
        return functional.conv2d(padded, self.weight, None, self.stride, groups=self.groups)

    def _spare(self, side: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        spare = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return spare // 2, spare - spare // 2


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedBottleneck(nn.Module):
    """Expands, convolves each channel by itself, and projects; with a shortcut where the shapes agree."""

    def __init__(self, channels_in: int, stage: _Stage, *, stride: int) -> None:
        super().__init__()
        inner = channels_in * stage.expansion
        self.shortcut = stride == 1 and channels_in == stage.channels
        self.expands = stage.expansion != 1
        if self.expands:
            self.expand_conv = SameConv2d(channels_in, inner, 1)
            self.bn0 = _norm(inner)
        self.depthwise_conv = SameConv2d(inner, inner, stage.kernel, stride=stride, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv = SameConv2d(inner, stage.channels, 1)
        self.bn2 = _norm(stage.channels)

    @override
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns the block's output."""
        y_BCHW = x_BCHW
        if self.expands:
            y_BCHW = functional.relu6(self.bn0(self.expand_conv(y_BCHW)))
        y_BCHW = functional.relu6(self.bn1(self.depthwise_conv(y_BCHW)))
        y_BCHW = self.bn2(self.project_conv(y_BCHW))
        result: torch.Tensor = x_BCHW + y_BCHW if self.shortcut else y_BCHW
        return result


class EfficientNetLite0(nn.Module):
    """The network without its classifier.

    Args:
        channels: channels of the images.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(channels, _STEM, 3, stride=2)
        self.bn0 = _norm(_STEM)
        blocks: list[InvertedBottleneck] = []
        channels_in = _STEM
        for stage in _STAGES:
            for number in range(stage.repeats):
                blocks.append(InvertedBottleneck(channels_in, stage, stride=stage.stride if number == 0 else 1))
                channels_in = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = SameConv2d(channels_in, DIMENSION, 1)
        self.bn1 = _norm(DIMENSION)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Returns stem, the seven stages and head, in the order of the data."""
        blocks = iter(self.blocks)
        groups = [tuple(next(blocks) for _ in range(stage.repeats)) for stage in _STAGES]
        return ((self.conv_stem, self.bn0), *groups, (self.conv_head, self.bn1))

    @override
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns x_BD, the mean over the last feature map."""
        x_BCHW = functional.relu6(self.bn0(self.conv_stem(x_BCHW)))
        x_BCHW = self.blocks(x_BCHW)
        y_BD: torch.Tensor = functional.relu6(self.bn1(self.conv_head(x_BCHW))).mean(dim=(2, 3))
        return y_BD
