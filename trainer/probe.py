"""A probe of a second or two: which precision is quickest for this backbone on this machine."""

import copy
import time
from dataclasses import dataclass

import torch
from torch import nn

_BATCH, _ROUNDS = 64, 2
_WORTH = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What the probe chose, and why."""

    bfloat16: bool
    """Whether to run forward and backward in bfloat16."""
    images_per_second: dict[str, float]
    """Forward and backward passes of one image a second, by precision; empty where nothing was measured."""


def probe(backbone: nn.Module, *, channels: int, size: int, device: torch.device) -> ProbeResult:
    """Measures forward and backward in float32 and bfloat16.

    Args:
        backbone: a copy of it is used.
        channels: of the images.
        size: side of the images in pixels.
        device: where it will be trained.
    """
    if device.type == "cuda":
        return ProbeResult(bfloat16=torch.cuda.is_bf16_supported(), images_per_second={})
    model = copy.deepcopy(backbone).train().to(memory_format=torch.channels_last)
    x_BCHW = torch.zeros(_BATCH, channels, size, size).contiguous(memory_format=torch.channels_last)
    speeds = {name: _speed(model, x_BCHW, bfloat16=name == "bfloat16") for name in ("float32", "bfloat16")}
    return ProbeResult(bfloat16=speeds["bfloat16"] > _WORTH * speeds["float32"], images_per_second=speeds)


def _speed(model: nn.Module, x_BCHW: torch.Tensor, *, bfloat16: bool) -> float:
    best = float("inf")
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            y_BD = model(x_BCHW)
        if y_BD.requires_grad:
            y_BD.float().square().mean().backward()
        best = min(best, time.perf_counter() - started)
    return len(x_BCHW) / best
