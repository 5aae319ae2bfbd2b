"""One of two processes that share a batch; makes two steps of every method and writes loss and gradients.

Run as: python gloo_worker.py RANK WORLD RENDEZVOUS OUT TEACHER
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed, nn

from trainer import method as methods
from trainer.distributed import world_size
from vicinal import plugins

BATCH, DIMENSION, SIDE = 8, 12, 16
SMALL: dict[str, dict[str, Any]] = {
    "moco": {"queue": 20},
    "exemplar_cnn": {"sampled": 30},
    "simclr": {"queue": BATCH, "neighbor_begin": 0.0},
}


def without_norm(module: nn.Module) -> None:
    """Takes batch normalisation out: on CPUs its statistics are each process's own."""
    for name, child in module.named_modules():
        if isinstance(child, nn.BatchNorm1d):
            module.set_submodule(name, nn.Identity())


def make(name: str, teacher: str) -> tuple[nn.Module, methods.Method]:
    """Makes backbone and method, the same in every process."""
    torch.manual_seed(0)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = nn.Sequential(nn.Conv2d(3, 24, 5, stride=2), nn.Tanh(), *pooled, nn.Linear(24, DIMENSION))
    context = methods.MethodContext(
        dimension=DIMENSION, image_count=50, channels=3, image_size=SIDE, batch_size=BATCH, backbone=backbone
    )
    options = {"teacher": teacher} if name == "distillation" else SMALL.get(name, {})
    method = methods.create(name, options, context)
    without_norm(method)
    return backbone, method


def views(name: str, *, step: int, rank: int, world: int) -> methods.Views:
    """Returns this process's share of a batch of views."""
    generator = torch.Generator().manual_seed(step)
    cls = methods.load(name)
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)

    def draw(count: int, side: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.randn(BATCH, 3, side, side, generator=generator)[share] for _ in range(count))

    return methods.Views(
        full=draw(cls.views.count, SIDE),
        local=draw(cls.views.local_count, SIDE // 2),
        plain_BCHW=draw(1, SIDE)[0].sigmoid() if cls.needs_plain else None,
        rows_B=(torch.arange(BATCH) * 3 + step)[share],
        generator=torch.Generator().manual_seed(99),
    )


def average(parameters: list[nn.Parameter]) -> None:
    """Averages gradients over processes, as DistributedDataParallel does."""
    if world_size() > 1:
        for parameter in parameters:
            assert parameter.grad is not None
            distributed.all_reduce(parameter.grad)
            parameter.grad /= world_size()


def measure(rank: int, world: int, teacher: str) -> dict[str, torch.Tensor]:
    """Returns loss and gradients of the second step of every method."""
    result: dict[str, torch.Tensor] = {}
    for name in plugins.names(methods.FAMILY):
        backbone, method = make(name, teacher)
        parameters = [p for module in (backbone, method) for p in module.parameters() if p.requires_grad]
        total = torch.zeros(())
        for step in range(2):
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            total = method.step(backbone, views(name, step=step, rank=rank, world=world)).loss.total
            total.backward()
            average(parameters)
            if step == 0:
                torch.nn.utils.clip_grad_norm_(parameters, 0.5)
                torch.optim.SGD(parameters, lr=1.0).step()
                method.after_step(backbone, progress=0.5)
        result[f"{name}/loss"] = total.detach().clone()
        for number, parameter in enumerate(parameters):
            assert parameter.grad is not None
            result[f"{name}/{number:03d}"] = parameter.grad.clone()
    return result


def main() -> None:
    """Joins the group, measures and writes."""
    rank, world, rendezvous, out, teacher = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    save_file(measure(rank, world, teacher), Path(out))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
