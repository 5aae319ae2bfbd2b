"""A convolution that is quick on small maps, on a CPU.

oneDNN computes the gradient of the weights image by image; on maps of 2 x 2 or 4 x 4 pixels that
takes several times as long as the forward pass in bfloat16. Gathering the patches and multiplying once, over
all images and positions, is the same sum. On the smallest maps nearly every output sees every
input, so the whole convolution is a matrix product with the kernel spread out: a 3 x 3 kernel of
256 channels on 2 x 2 pixels takes about a quarter of the time. In float32 oneDNN is nearer to its best, and
only maps of 2 x 2 pixels gain: with 256 channels that kernel takes two fifths of the time on AVX2.
"""

import functools
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

_MOST_POSITIONS = {torch.bfloat16: 64, torch.float32: 4}
"""Output maps of at most this many pixels are gathered; above, the copy costs more than it saves."""
_MOST_PAIRS = {torch.bfloat16: 81, torch.float32: 16}
"""Pairs of an input and an output pixel up to which the kernel is spread out."""
_SPLITS, _MOST_ROWS = 4, 16_384
"""Above that many rows a sum over them is quicker in parts."""


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
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        rows, columns = (_outputs(side, kernel, stride, padding) for side in input.shape[2:])
        quick = (
            self.training
            and input.device.type == "cpu"
            and torch.is_grad_enabled()
            and self.in_channels > 3
            and rows * columns <= _MOST_POSITIONS.get(dtype, 0)
        )
        if not quick:
            return super().forward(input)
        few = input.shape[2] * input.shape[3] * rows * columns <= _MOST_PAIRS[dtype]
        function = _Spread if few and kernel > 1 else _Gathered
        result: torch.Tensor = function.apply(input.to(dtype), self.weight.to(dtype), stride, padding)
        return result


def _outputs(side: int, kernel: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1


@functools.cache
def _taps(height: int, width: int, kernel: int, stride: int, padding: int) -> tuple[torch.Tensor, int, int]:
    """Returns which tap of a kernel joins each input pixel to each output pixel, and the output's height and width.

    The taps are int64 (input pixels, output pixels) and count from 0 by rows; kernel x kernel stands
    for none.
    """
    rows, columns = (_outputs(side, kernel, stride, padding) for side in (height, width))
    taps_IO = torch.full((height * width, rows * columns), kernel * kernel)
    for place in range(rows * columns):
        for tap in range(kernel * kernel):
            y = place // columns * stride + tap // kernel - padding
            x = place % columns * stride + tap % kernel - padding
            if 0 <= y < height and 0 <= x < width:
                taps_IO[y * width + x, place] = tap
    return taps_IO, rows, columns


class _Spread(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, x_BCHW: torch.Tensor, w_OCkk: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
        outputs, inputs, side, _ = w_OCkk.shape
        batch, _, height, width = x_BCHW.shape
        taps_IO, rows, columns = _taps(height, width, side, stride, padding)
        w_TCO = functional.pad(w_OCkk.flatten(2), (0, 1)).permute(2, 1, 0)
        spread = w_TCO[taps_IO].permute(0, 2, 1, 3).reshape(height * width * inputs, rows * columns * outputs)
        x_BF = x_BCHW.permute(0, 2, 3, 1).reshape(batch, -1)
        ctx.save_for_backward(x_BF, spread, taps_IO)
        ctx.shapes = x_BCHW.shape, w_OCkk.shape
        with torch.autocast("cpu", enabled=False):
            return (x_BF @ spread).view(batch, rows, columns, outputs).permute(0, 3, 1, 2)

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_BF, spread, taps_IO = ctx.saved_tensors
        (batch, inputs, height, width), (outputs, _, side, _) = ctx.shapes
        g_BF = gradients[0].permute(0, 2, 3, 1).reshape(batch, -1)
        gx_BCHW = gw_OCkk = None
        if ctx.needs_input_grad[0]:
            gx_BCHW = (g_BF @ spread.t()).view(batch, height, width, inputs).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            pairs = (x_BF.t() @ g_BF).view(taps_IO.shape[0], inputs, taps_IO.shape[1], outputs).permute(0, 2, 1, 3)
            is_tap_TP = (taps_IO.flatten() == torch.arange(side * side)[:, None]).to(pairs.dtype)
            gw_TCO = (is_tap_TP @ pairs.reshape(taps_IO.numel(), -1)).view(side, side, inputs, outputs)
            gw_OCkk = gw_TCO.permute(3, 2, 0, 1)
        return gx_BCHW, gw_OCkk, None, None


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
    parts = _SPLITS if len(g_PO) > _MOST_ROWS and len(g_PO) % _SPLITS == 0 else 1
    product = torch.bmm(g_PO.view(parts, -1, outputs).mT, patches.view(parts, -1, patches.shape[1]))
    return product.sum(dim=0).view(outputs, side, side, inputs).permute(0, 3, 1, 2)
