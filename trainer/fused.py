"""The updates of a whole group of parameters in a few kernels, for GPUs; the rules are those of trainer.optimizer."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

State = dict[torch.Tensor, dict[str, Any]]


def _gradients(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _buffers(parameters: Sequence[torch.Tensor], state: State, name: str) -> list[torch.Tensor]:
    for parameter in parameters:
        if name not in state[parameter]:
            state[parameter][name] = torch.zeros_like(parameter)
    return [state[parameter][name] for parameter in parameters]


def fused_adamw(parameters: Sequence[torch.Tensor], group: dict[str, Any], state: State) -> None:
    """Makes one update by AdamW, in one kernel."""
    counts: list[torch.Tensor] = []
    for parameter in parameters:
        count = torch.as_tensor(state[parameter].get("count", 0), dtype=torch.float32, device=parameter.device)
        state[parameter]["count"] = count
        counts.append(count)
    adamw(
        list(parameters),
        _gradients(parameters),
        _buffers(parameters, state, "momentum"),
        _buffers(parameters, state, "second"),
        [],
        counts,
        fused=True,
        amsgrad=False,
        beta1=0.9,
        beta2=0.99,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=1e-8,
        maximize=False,
    )


def fused_sgd(parameters: Sequence[torch.Tensor], group: dict[str, Any], state: State) -> None:
    """Makes one update by SGD with momentum, in one kernel."""
    buffers: list[torch.Tensor | None] = [*_buffers(parameters, state, "momentum")]
    sgd(
        list(parameters),
        _gradients(parameters),
        buffers,
        fused=True,
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )


def batched_muon(
    orthogonalize: Callable[..., torch.Tensor],
    parameters: Sequence[torch.Tensor],
    group: dict[str, Any],
    state: State,
) -> None:
    """Makes one update by Muon; matrices of one shape are orthogonalised in one batch.

    Args:
        orthogonalize: of a batch of matrices.
        parameters: matrices and kernels with gradients.
        group: rates.
        state: momentum of each parameter.
    """
    momentum = group["momentum"]
    by_shape: dict[tuple[int, int], list[torch.Tensor]] = {}
    for parameter in parameters:
        by_shape.setdefault((parameter.shape[0], parameter[0].numel()), []).append(parameter)
    for (rows, columns), same in by_shape.items():
        gradients, buffers = _gradients(same), _buffers(same, state, "momentum")
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, buffers, momentum)  # noqa: SLF001
        ortho_POI = orthogonalize(torch.stack([update.flatten(1) for update in updates]), steps=group["iterations"])
        steps = [step.view(parameter.shape) for step, parameter in zip(ortho_POI, same, strict=True)]
        torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
        # The root-mean-square of the update is that of Adam, arXiv:2502.16982.
        torch._foreach_add_(same, steps, alpha=-group["lr"] * 0.2 * math.sqrt(max(rows, columns)))
