"""One of two processes that share a batch; writes each loss and the gradient of its share.

Run as: python gloo_worker.py RANK WORLD RENDEZVOUS OUT
"""

import json
import sys
from pathlib import Path

import torch
from torch import distributed, nn

from trainer import method as methods
from vicinal import plugins

BATCH, DIMENSION = 12, 16


def make(name: str) -> methods.JointMethod:
    """Makes a method whose loss has no batch normalisation of its own."""
    torch.manual_seed(0)
    context = methods.MethodContext(
        dimension=DIMENSION,
        image_count=BATCH,
        channels=3,
        image_size=16,
        batch_size=BATCH,
        backbone=nn.Linear(DIMENSION, DIMENSION),
    )
    method = methods.create(name, {}, context)
    assert isinstance(method, methods.JointMethod)
    if hasattr(method, "predictor"):
        method.predictor = nn.Identity()
    return method


def joint_names() -> list[str]:
    """Names of the methods whose loss is a function of the projections alone."""
    names = plugins.names(methods.FAMILY)
    return [name for name in names if issubclass(methods.load(name), methods.JointMethod)]


def measure(rank: int, world: int) -> dict[str, dict[str, object]]:
    """Returns value and gradient of every joint method on this process's share."""
    result: dict[str, dict[str, object]] = {}
    for name in joint_names():
        method = make(name)
        width = [layer for layer in method.projector.modules() if isinstance(layer, nn.Linear)][-1].out_features
        generator = torch.Generator().manual_seed(1)
        z_VBD = torch.randn(2, BATCH, width, generator=generator, dtype=torch.float64)
        share = BATCH // world
        local = z_VBD[:, rank * share : (rank + 1) * share].clone().requires_grad_()
        total = method.double().loss(local).total
        (gradient,) = torch.autograd.grad(total, local)
        result[name] = {"loss": float(total.detach()), "gradient": (gradient / world).tolist()}
    return result


def main() -> None:
    """Joins the group, measures and writes."""
    rank, world, rendezvous, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    out.write_text(json.dumps(measure(rank, world)), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
