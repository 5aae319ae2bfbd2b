"""The baseline that pretraining has to beat: the same network trained from scratch on the labels alone."""

import torch
from torch import nn
from torch.nn import functional

from trainer import optimizer
from trainer.config import OptimizerConfig, ViewConfig
from trainer.device import quick_autocast
from trainer.monitor import chunk_of
from trainer.splits import Split
from trainer.views import ViewMaker
from vicinal.encoder import Encoder

_VIEWS = ViewConfig(count=1, crop_scale=(0.4, 1.0), gray=0.0, hue=0.05)


def scratch_accuracy(
    encoder: Encoder, labelled: Split, queries: Split, *, seed: int, steps: int = 150, batch_size: int = 128
) -> float:
    """Trains the encoder's network anew, supervised and augmented, and returns its accuracy.

    Args:
        encoder: says which network and preprocessing; its weights are not used.
        labelled: what it is trained on.
        queries: what it is measured on.
        seed: of initialisation, sampling and augmentation.
        steps: optimiser steps.
        batch_size: images in a step, at most; fewer where they are large, all of them where there are fewer.
    """
    batch_size = min(batch_size, chunk_of(encoder.preprocessing.height))
    torch.manual_seed(seed)
    backbone = encoder.untrained().to(memory_format=torch.channels_last)
    backbone.whiten(encoder.preprocessing.normalize(torch.from_numpy(labelled.x_NCHW)))
    model = nn.Sequential(backbone, nn.Linear(backbone.dimension, int(labelled.y_N.max()) + 1))
    maker = ViewMaker(_VIEWS, mean=encoder.preprocessing.mean, std=encoder.preprocessing.std)
    rates = OptimizerConfig(warmup=0.1)
    solver = optimizer.create(rates, [model], batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    images_NCHW, target_N = torch.from_numpy(labelled.x_NCHW), torch.from_numpy(labelled.y_N)
    for step in range(steps):
        rows_B = torch.randperm(len(target_N), generator=generator)[:batch_size]
        solver.set_factor(optimizer.factor(rates, step / steps))
        views = maker(images_NCHW[rows_B], rows_B=rows_B, size=images_NCHW.shape[-1], generator=generator)
        with quick_autocast(torch.device("cpu")):
            logits_BC = model(views.full[0])
        solver.zero_grad()
        functional.cross_entropy(logits_BC.float(), target_N[rows_B]).backward()  # type: ignore[no-untyped-call]
        solver.step()
    return _accuracy(model, encoder, queries)


def _accuracy(model: nn.Module, encoder: Encoder, queries: Split) -> float:
    model.eval()
    right, count = 0, chunk_of(encoder.preprocessing.height)
    with torch.inference_mode(), quick_autocast(torch.device("cpu")):
        for start in range(0, len(queries.y_N), count):
            x_BCHW = encoder.preprocessing.normalize(torch.from_numpy(queries.x_NCHW[start : start + count]))
            predicted_B = model(x_BCHW.contiguous(memory_format=torch.channels_last)).argmax(dim=1)
            right += int((predicted_B.numpy() == queries.y_N[start : start + count]).sum())
    return right / len(queries.y_N)
