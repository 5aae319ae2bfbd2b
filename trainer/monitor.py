"""Online kNN and linear probe, where the corpus names classes, beside pixels and the random encoder.

Labels are looked at, never learned from.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from trainer.cache import ImageCache
from trainer.knn import knn_accuracy
from trainer.probes import ridge_predict
from trainer.views import ViewMaker, resize
from vicinal.modalities.image.backbones import Backbone
from vicinal.types import F32Array, I64Array, U8Array

_BANK, _QUERIES = 5_000, 1_000
_CHUNK, _LEAST_CHUNK, _CHUNK_PIXELS = 512, 32, 1 << 20
_PIXELS, _LARGEST_PIXELS = 32, 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Fractions of queries that are classified rightly, in [0, 1]."""

    knn: float
    """By a vote of 20 nearest neighbours."""
    linear: float
    """By ridge regression."""

    def text(self) -> str:
        """Returns both in percent."""
        return f"{100 * self.knn:.1f}% {100 * self.linear:.1f}%"


class OnlineMonitor:
    """Embeds a fixed sample of the images and classifies a part of it by the rest.

    Args:
        cache: the images, of which at least two classes are named.
        maker: normalises as in training.
        size: side of the images in pixels.
        seed: of the sample.
        bfloat16: whether to embed in bfloat16.
    """

    def __init__(self, cache: ImageCache, *, maker: ViewMaker, size: int, seed: int, bfloat16: bool) -> None:
        labelled_N = np.flatnonzero(cache.labels_N >= 0)
        order = np.random.default_rng([seed, 1]).permutation(labelled_N)
        query_count = min(_QUERIES, len(order) // 3)
        rows = order[: query_count + _BANK]
        self._x_NCHW: U8Array = np.asarray(cache.x_NCHW[np.sort(rows)])
        self._y_N: I64Array = cache.labels_N[np.sort(rows)]
        self._query_N = np.isin(np.sort(rows), rows[:query_count])
        self._maker = maker
        self._size = size
        self._bfloat16 = bfloat16

    @staticmethod
    def fits(cache: ImageCache) -> bool:
        """Returns whether there are labels enough to measure anything."""
        labelled = cache.labels_N[cache.labels_N >= 0]
        return len(cache.classes) >= 2 and len(labelled) >= 20 * len(cache.classes)

    def pixels(self) -> Accuracy:
        """Returns the accuracy of raw pixels."""
        return self._accuracy(raw_pixels(self._x_NCHW))

    def random(self, backbone: Backbone, *, prepare: Callable[[Backbone], None] = lambda _: None) -> Accuracy:
        """Returns the accuracy of a copy of an untrained backbone, its normalisation set by the sample.

        Args:
            backbone: the network.
            prepare: called with the copy before it is measured.
        """
        model = copy.deepcopy(backbone)
        calibrate(model, next(self._batches()), device=_device(model))
        prepare(model)
        return self.encoder(model)

    def encoder(self, backbone: nn.Module) -> Accuracy:
        """Returns the accuracy of a backbone; leaves its mode as it was."""
        was_training = backbone.training
        backbone.eval()
        device = _device(backbone)
        parts: list[F32Array] = []
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            for x_BCHW in self._batches():
                # Not through a compiled call: these batches have other shapes, and each shape costs a compilation.
                y_BD = backbone.forward(x_BCHW.to(device))
                parts.append(y_BD.float().cpu().numpy())
        backbone.train(was_training)
        return self._accuracy(np.concatenate(parts))

    def _batches(self) -> Iterator[torch.Tensor]:
        count = chunk_of(self._size)
        for start in range(0, len(self._x_NCHW), count):
            x_BCHW = torch.from_numpy(self._x_NCHW[start : start + count]).float() / 255.0
            yield self._maker.normalize(resize(x_BCHW, self._size))

    def _accuracy(self, x_ND: F32Array) -> Accuracy:
        known_N, wanted_Q = ~self._query_N, self._y_N[self._query_N]
        bank = (x_ND[known_N], self._y_N[known_N], x_ND[self._query_N])
        linear = float((ridge_predict(*bank) == wanted_Q).mean())
        return Accuracy(knn=knn_accuracy(*bank, wanted_Q), linear=linear)


def chunk_of(side: int) -> int:
    """Returns how many images of a side pass a network at once without much memory: 512 small ones, 32 large ones."""
    return max(_LEAST_CHUNK, min(_CHUNK, _CHUNK_PIXELS // side**2))


def raw_pixels(x_NCHW: U8Array) -> F32Array:
    """Returns images as vectors in [0, 1]; large ones at 32 x 32, where their pixels classify best and cheaply."""
    side = min(x_NCHW.shape[2:])
    if side <= _LARGEST_PIXELS:
        rows: F32Array = x_NCHW.reshape(len(x_NCHW), -1).astype(np.float32) / 255.0
        return rows
    count = chunk_of(side)
    parts = [
        resize(torch.from_numpy(x_NCHW[start : start + count]).float() / 255.0, _PIXELS).flatten(1).numpy()
        for start in range(0, len(x_NCHW), count)
    ]
    return np.concatenate(parts)


def calibrate(model: nn.Module, x_BCHW: torch.Tensor, *, device: torch.device) -> None:
    """Sets the running statistics of batch normalisation from one batch, without any training."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        model(x_BCHW.to(device))
    model.eval()


def _device(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
