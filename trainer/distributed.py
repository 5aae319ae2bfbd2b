"""Sums and gathers over processes that keep value and gradient equal to one process's.

Every process computes the loss of the whole batch; DistributedDataParallel averages gradients. The
backward of the gather sums over processes, so average and sum cancel, and the gradient is that of
the whole batch on one process.
"""

import torch
from torch import distributed
from torch.distributed.nn import functional


def world_size() -> int:
    """Returns the number of processes, 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Returns the number of this process, 0 without a process group."""
    return distributed.get_rank() if world_size() > 1 else 0


def gather(x_BD: torch.Tensor, *, dim: int = 0) -> torch.Tensor:
    """Returns the tensors of all processes, in order, joined along ``dim``; with gradient."""
    if world_size() == 1:
        return x_BD
    parts: tuple[torch.Tensor, ...] = functional.all_gather(x_BD.contiguous())  # type: ignore[no-untyped-call]
    return torch.cat(parts, dim=dim)


def gather_detached(x_BD: torch.Tensor) -> torch.Tensor:
    """Returns the tensors of all processes joined along the first axis; without gradient."""
    if world_size() == 1:
        return x_BD.detach()
    parts = [torch.empty_like(x_BD) for _ in range(world_size())]
    distributed.all_gather(parts, x_BD.detach().contiguous())
    return torch.cat(parts)


def mean(x: torch.Tensor) -> torch.Tensor:
    """Returns the mean over processes of equal shares; with gradient."""
    if world_size() == 1:
        return x
    total: torch.Tensor = functional.all_reduce(x.clone())  # type: ignore[no-untyped-call]
    return total / world_size()


def own(x_BD: torch.Tensor, *, dim: int = 0) -> torch.Tensor:
    """Returns this process's share of something that is there for the whole batch, along ``dim``."""
    share = x_BD.shape[dim] // world_size()
    return x_BD.narrow(dim, rank() * share, share)


def agree(values: list[float], *, device: torch.device) -> list[float]:
    """Returns the first process's numbers, so that no two processes decide by different clocks."""
    if world_size() == 1:
        return values
    told = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.broadcast(told, src=0)
    return [float(value) for value in told]
