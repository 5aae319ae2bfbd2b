"""A teacher: a copy of networks that follows them as an exponential moving average, without gradient."""

import copy
import math

import torch
from torch import nn
from typing_extensions import override


class Teacher(nn.Module):
    """Follows a student; its state is saved with the method's.

    Args:
        student: what is copied, parameters and buffers.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(student)
        self.network.requires_grad_(False)  # noqa: FBT003

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the teacher's output, without gradient; batch statistics are the batch's own."""
        with torch.no_grad():
            y: torch.Tensor = self.network(x)
        return y

    @torch.no_grad()
    def follow(self, student: nn.Module, *, momentum: float) -> None:
        """Moves towards the student by 1 - momentum; buffers are copied."""
        for mine, its in zip(self.network.parameters(), student.parameters(), strict=True):
            mine.lerp_(its.detach(), 1.0 - momentum)
        for kept, its_own in zip(self.network.buffers(), student.buffers(), strict=True):
            kept.copy_(its_own)


def rising(start: float, progress: float) -> float:
    """Returns a momentum that rises from ``start`` to 1 along a cosine (arXiv:2006.07733, section 3.3)."""
    return 1.0 - (1.0 - start) * (math.cos(math.pi * progress) + 1.0) / 2.0
