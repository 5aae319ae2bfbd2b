"""lightly's SimCLR as its documentation writes it, on the same encoder: the peer of bench_pretrain."""

import math
import time
from pathlib import Path

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from torch import nn
from torchvision.datasets import ImageFolder

from vicinal.modalities.image.backbones import Backbone, create

_BATCH, _LR, _WARMUP = 256, 0.06, 0.03


def train(folder: Path, *, encoder: str, seconds: float, seed: int) -> tuple[Backbone, int, float]:
    """Trains for a wall-clock budget with a loader of 0 workers, its best setting on two cores.

    Args:
        folder: CLASS/*.jpg; the classes are not used.
        encoder: backbone by name.
        seconds: of training.
        seed: of initialisation and sampling.

    Returns:
        The backbone in evaluation mode, the views it saw, and the seconds it took.
    """
    torch.manual_seed(seed)
    transform = SimCLRTransform(input_size=32, gaussian_blur=0.0)
    loader = torch.utils.data.DataLoader(
        ImageFolder(folder, transform), batch_size=_BATCH, shuffle=True, drop_last=True
    )
    backbone = create(encoder, channels=3, image_size=32)
    model = nn.Sequential(backbone, SimCLRProjectionHead(backbone.dimension, backbone.dimension, 128))
    criterion = NTXentLoss(temperature=0.5)
    solver = torch.optim.SGD(model.parameters(), lr=_LR, momentum=0.9, weight_decay=5e-4)
    views, started = 0, time.perf_counter()
    while True:
        for (first, second), _ in loader:
            spent = (time.perf_counter() - started) / seconds
            if spent >= 1.0:
                return backbone.eval(), views, time.perf_counter() - started
            for group in solver.param_groups:
                group["lr"] = _LR * min(1.0, spent / _WARMUP) * 0.5 * (1 + math.cos(math.pi * spent))
            loss = criterion(model(first), model(second))
            solver.zero_grad()
            loss.backward()
            solver.step()
            views += len(first) + len(second)
