"""What depends on the machine: how many processes, on what, compiled or not, and where the images are.

The one file of the trainer that knows GPUs, with ``trainer.fused`` beside it.
"""

import os
import shutil
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from typing_extensions import override

from trainer.config import BudgetConfig, PretrainConfig
from vicinal.encoder import resolve_device
from vicinal.errors import InvalidArgumentError
from vicinal.types import U8Array

_RESIDENT_SHARE = 0.5
_CHUNK = 4096
_LONG_MINUTES, _LONG_EPOCHS, _LONG_STEPS = 10.0, 20.0, 5_000


class Tuning(lightning.Callback):
    """Sets threads and kernels of each process when the training starts, after the launcher has set its own.

    Args:
        count: threads; None: as they are.
    """

    def __init__(self, count: int | None) -> None:
        self._count = count

    @override
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Sets them."""
        if self._count is not None:
            torch.set_num_threads(self._count)
        if pl_module.device.type == "cuda":
            torch.set_float32_matmul_precision("high")


def process_count(config: PretrainConfig) -> int:
    """Returns the processes of a node: as asked for, else one for each GPU, or one on a CPU.

    Raises:
        InvalidArgumentError: more than there are GPUs, or several on a GPU that is named by its number.
    """
    device = resolve_device(config.device)
    if device.type != "cuda":
        return config.devices or 1
    there = 1 if ":" in config.device else torch.cuda.device_count()
    if (config.devices or 1) > there:
        raise InvalidArgumentError(
            f"{config.devices} devices were asked for, {config.device!r} has {there}; leave --devices out for all",
            field="devices",
        )
    return config.devices or there


def trainer_options(config: PretrainConfig) -> dict[str, Any]:
    """Returns what Lightning's Trainer is told: accelerator, devices, strategy and precision."""
    device = resolve_device(config.device)
    count, cuda = process_count(config), device.type == "cuda"
    several = count * config.nodes > 1
    devices: int | list[int] = [device.index] if cuda and ":" in config.device else count
    strategy: Any = "auto"
    if several:
        strategy = DDPStrategy(process_group_backend="nccl" if cuda else "gloo", gradient_as_bucket_view=True)
    return {
        "accelerator": "gpu" if cuda else "cpu",
        "devices": devices,
        "num_nodes": config.nodes,
        "strategy": strategy,
        "precision": "bf16-mixed" if config.precision == "bfloat16" else "32-true",
        "benchmark": cuda,
        # Torch normalises over processes on GPUs only.
        "sync_batchnorm": several and cuda,
    }


def prefers_bfloat16(device: torch.device) -> bool:
    """Returns whether a device has instructions for products in bfloat16; without, a CPU takes many times as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return any(able for name, able in torch.cpu.get_capabilities().items() if "bf16" in name)


def quick_autocast(device: torch.device) -> torch.autocast:
    """Returns autocast to bfloat16 where the device has instructions for it; elsewhere it does nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=prefers_bfloat16(device))


def should_compile(config: PretrainConfig) -> bool:
    """Returns whether the backbone is compiled: as asked for, else for long runs on a GPU.

    Raises:
        InvalidArgumentError: it was asked for, and there is no C++ compiler for the CPU.
    """
    device = resolve_device(config.device)
    if config.compile == "auto":
        return device.type == "cuda" and _is_long(config.budget)
    if config.compile == "on" and device.type == "cpu" and not _compiler():
        raise InvalidArgumentError(
            "compile is on, and there is no C++ compiler (g++, clang++ or $CXX); install one or use --no-compile",
            field="compile",
        )
    return config.compile == "on"


def _is_long(budget: BudgetConfig) -> bool:
    return (
        (budget.minutes or 0.0) >= _LONG_MINUTES
        or (budget.epochs or 0.0) >= _LONG_EPOCHS
        or (budget.steps or 0) >= _LONG_STEPS
    )


def _compiler() -> str | None:
    return next(
        (found for name in (os.environ.get("CXX"), "g++", "clang++") if name and (found := shutil.which(name))), None
    )


def resident(x_NCHW: U8Array, device: torch.device) -> torch.Tensor | None:
    """Returns all images on the GPU where they take at most half of its free memory, else None.

    Args:
        x_NCHW: images, uint8, perhaps memory-mapped; copied in chunks.
        device: where the training is.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return copy_to(x_NCHW, device) if x_NCHW.nbytes <= _RESIDENT_SHARE * free else None


def copy_to(x_NCHW: U8Array, device: torch.device) -> torch.Tensor:
    """Copies images to a device, chunk by chunk, so that the host holds one chunk."""
    result = torch.empty(x_NCHW.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(x_NCHW), _CHUNK):
        result[start : start + _CHUNK] = torch.from_numpy(x_NCHW[start : start + _CHUNK].copy())
    return result
