"""A convolution whose weight gradient is quick on small maps.

On a CPU in bfloat16, oneDNN computes the gradient of the weights image by image; on maps of 2 x 2
or 4 x 4 pixels that takes several times as long as the forward pass. Gathering the patches and
multiplying once, over all images and positions, is the same sum.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

_MOST_POSITIONS = 64
"""Output maps of at most this many pixels are gathered; above, the copy costs more than it saves."""


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with square kernel, stride and padding, no groups, no dilation and no bias.

    Values and gradients are those of ``nn.Conv2d`` up to rounding; so is the state.

    Args:
        channels_in: channels that come in.
        channels_out: channels that go out.
        kernel_size: side of the kernel.
        stride: of both axes.
        padding: of both axes.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(channels_in, channels_out, kernel_size, stride=stride, padding=padding, bias=False)

    @override
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns y_BCHW."""
        quick = (
            self.training
            and input.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.is_grad_enabled()
            and self.in_channels > 3
            and -(-input.shape[2] // self.stride[0]) * -(-input.shape[3] // self.stride[1]) <= _MOST_POSITIONS
        )
        if not quick:
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu")
        result: torch.Tensor = _Gathered.apply(
            input.to(dtype), self.weight.to(dtype), self.stride[0], int(self.padding[0])
        )
        return result


class _Gathered(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, x_BCHW: torch.Tensor, w_OCkk: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
        ctx.save_for_backward(x_BCHW, w_OCkk)
        ctx.stride, ctx.padding = stride, padding
        with torch.autocast("cpu", enabled=False):
            return functional.conv2d(x_BCHW, w_OCkk, stride=stride, padding=padding)

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (g_BOHW,) = gradients
        x_BCHW, w_OCkk = ctx.saved_tensors
        gx_BCHW = None
        if ctx.needs_input_grad[0]:
            gx_BCHW = torch.ops.aten.convolution_backward(
                g_BOHW,
                x_BCHW,
                w_OCkk,
                None,
                [ctx.stride] * 2,
                [ctx.padding] * 2,
                [1, 1],
                False,  # noqa: FBT003
                [0, 0],
                1,
                [True, False, False],
            )[0]
        gw_OCkk = None
        if ctx.needs_input_grad[1]:
            gw_OCkk = _weight_gradient(x_BCHW, w_OCkk, g_BOHW, stride=ctx.stride, padding=ctx.padding)
        return gx_BCHW, gw_OCkk, None, None


def _weight_gradient(
    x_BCHW: torch.Tensor, w_OCkk: torch.Tensor, g_BOHW: torch.Tensor, *, stride: int, padding: int
) -> torch.Tensor:
    outputs, inputs, side, _ = w_OCkk.shape
    batch, _, height, width = g_BOHW.shape
    x_BHWC = x_BCHW.permute(0, 2, 3, 1)
    if padding:
        x_BHWC = functional.pad(x_BHWC, (0, 0, padding, padding, padding, padding))
    x_BHWC = x_BHWC.contiguous()
    sb, sh, sw, sc = x_BHWC.stride()
    # One view of all patches: position (h, w), offset (k, l), channel; reshaping makes the one copy.
    patches = x_BHWC.as_strided(
        (batch, height, width, side, side, inputs), (sb, sh * stride, sw * stride, sh, sw, sc)
    ).reshape(batch * height * width, side * side * inputs)
    g_PO = g_BOHW.permute(0, 2, 3, 1).reshape(-1, outputs)
    return (g_PO.t() @ patches).view(outputs, side, side, inputs).permute(0, 3, 1, 2)
