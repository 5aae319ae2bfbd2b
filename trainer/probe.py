"""A probe of a few seconds: precision, memory layout, threads and reading ahead, as this machine runs them quickest."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from trainer.config import PretrainConfig
from trainer.device import prefers_bfloat16
from vicinal.types import U8Array

_BATCH, _FEW, _ROUNDS = 64, 8, 5
_SLOW_S = 1.0
_WORTH = 1.1
_READING_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What the probe chose, and why."""

    bfloat16: bool
    """Whether to run forward and backward in bfloat16."""
    channels_last: bool
    """Whether images and weights lie with their channels last."""
    threads: int
    """CPU threads."""
    workers: int
    """Threads that read ahead, 0 or 1."""
    images_per_second: dict[str, float]
    """Forward and backward passes of one image a second, by what was tried; empty where nothing was."""
    reading_share: float | None = None
    """Time to read a batch as a fraction of the time to train on it; None where it was not measured."""

    def text(self) -> str:
        """Returns what was chosen and measured, for people."""
        layout = "channels last" if self.channels_last else "channels first"
        precision = "bfloat16" if self.bfloat16 else "float32"
        reading = "" if self.reading_share is None else f" (reading takes {100 * self.reading_share:.1f}% of a step)"
        chosen = f"{precision}, {layout}, {self.threads} threads, {self.workers} reading ahead{reading}"
        speeds = ", ".join(f"{name} {speed:.0f}" for name, speed in self.images_per_second.items())
        return f"{chosen}{f'; measured images/s: {speeds}' if speeds else ''}"


def probe(
    config: PretrainConfig,
    backbone: nn.Module,
    x_NCHW: U8Array,
    *,
    device: torch.device,
    processes: int = 1,
    most_images: int | None = None,
) -> ProbeResult:
    """Measures what the configuration leaves open; a choice is changed only where that is worth a tenth.

    Args:
        config: precision, channels_last, threads and workers that are set are taken as they are.
        backbone: a copy of it is used.
        x_NCHW: the images.
        device: where it will be trained.
        processes: of this machine, which share its threads.
        most_images: that fit into memory at once; None: as many as are worth it.
    """
    most = max(1, torch.get_num_threads() // processes)
    if device.type == "cuda":
        bfloat16 = prefers_bfloat16(device) if config.precision == "auto" else config.precision == "bfloat16"
        return ProbeResult(
            bfloat16=bfloat16,
            channels_last=config.channels_last is not False,
            threads=config.threads or most,
            workers=1 if config.workers is None else config.workers,
            images_per_second={},
        )
    return _Search(config, backbone, x_NCHW, threads=most, most_images=most_images).result()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    bfloat16: bool
    channels_last: bool
    threads: int

    def text(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        return f"{'bfloat16' if self.bfloat16 else 'float32'}, {layout}, {self.threads} threads"


class _Search:
    """Tries one setting after the other, each time from the best so far."""

    def __init__(
        self,
        config: PretrainConfig,
        backbone: nn.Module,
        x_NCHW: U8Array,
        *,
        threads: int,
        most_images: int | None,
    ) -> None:
        self._config = config
        self._backbone = backbone
        self._x_NCHW = x_NCHW
        self._best = _Setting(
            bfloat16=config.precision == "bfloat16",
            channels_last=config.channels_last is not False,
            threads=config.threads or threads,
        )
        self._batch = max(2, min(_BATCH, _BATCH if most_images is None else most_images))
        self._passes: dict[_Setting, _Passes] = {}

    def result(self) -> ProbeResult:
        config = self._config
        if config.precision == "auto":
            self._try(replace(self._best, bfloat16=True))
        if config.channels_last is None:
            self._try(replace(self._best, channels_last=False))
        if config.threads is None and self._best.threads > 1:
            self._try(replace(self._best, threads=self._best.threads // 2))
        workers, share = config.workers, None
        if workers is None:
            speed = self._measured(self._best)[0].images_per_second
            share = self._reading_s() * speed / min(config.batch, len(self._x_NCHW))
            workers = int(share > _READING_SHARE)
        return ProbeResult(
            bfloat16=self._best.bfloat16,
            channels_last=self._best.channels_last,
            threads=self._best.threads,
            workers=workers,
            images_per_second={setting.text(): one.images_per_second for setting, one in self._passes.items()},
            reading_share=share,
        )

    def _try(self, setting: _Setting) -> None:
        best, other = self._measured(self._best, setting)
        if other.images_per_second > _WORTH * best.images_per_second:
            self._best = setting

    def _measured(self, *settings: _Setting) -> "list[_Passes]":
        """Returns the passes of settings, measured in turn: a noisy moment decides nothing."""
        if not self._passes and self._batch > _FEW:
            # Large images: a few of them are enough, and a second is not to become a minute.
            few = _Passes(self._backbone, settings[0], shape=(_FEW, *self._x_NCHW.shape[1:]))
            few.run()
            self._batch = self._batch if self._batch / few.images_per_second < _SLOW_S else _FEW
        shape = (self._batch, *self._x_NCHW.shape[1:])
        for setting in settings:
            if setting not in self._passes:
                self._passes[setting] = _Passes(self._backbone, setting, shape=shape)
        found = [self._passes[setting] for setting in settings]
        for _ in range(_ROUNDS):
            for one in found:
                one.run()
        return found

    def _reading_s(self) -> float:
        size = min(self._config.batch, len(self._x_NCHW))
        rows = np.random.default_rng(0).permutation(len(self._x_NCHW))[:size]
        started = time.perf_counter()
        torch.from_numpy(self._x_NCHW[rows]).float()
        return time.perf_counter() - started


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Passes:
    """Forward and backward passes in one setting; the quickest counts.

    Args:
        backbone: a copy of it is used.
        setting: the setting.
        shape: of a batch.
    """

    def __init__(self, backbone: nn.Module, setting: _Setting, *, shape: tuple[int, ...]) -> None:
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        self._setting = setting
        self._model = copy.deepcopy(backbone).train().to(memory_format=layout)
        self._x_BCHW = torch.zeros(*shape).contiguous(memory_format=layout)
        self._seconds = float("inf")

    @property
    def images_per_second(self) -> float:
        """Images of the quickest pass a second."""
        return len(self._x_BCHW) / self._seconds

    def run(self) -> None:
        """Makes one pass, unless one is known to take seconds."""
        if _SLOW_S < self._seconds < float("inf"):
            return
        with _threads(self._setting.threads):
            started = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._setting.bfloat16):
                y_BD = self._model(self._x_BCHW)
            if y_BD.requires_grad:
                y_BD.float().square().mean().backward()
            self._seconds = min(self._seconds, time.perf_counter() - started)
