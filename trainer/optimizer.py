"""Optimisers and the schedule over the fraction of the budget that is spent.

One optimiser object holds groups of different rules, so that one checkpoint and one step serve all.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from trainer import fused
from trainer.config import OptimizerConfig
from trainer.device import prefers_bfloat16

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_EPSILON = 1e-8
_ITERATIONS = 3
_REFERENCE_BATCH = 256


class MixedOptimizer(torch.optim.Optimizer):
    """Updates each group by its own rule: ``muon``, ``sgd``, ``lars`` or ``adamw``.

    Args:
        groups: ``params``, ``rule``, ``lr``, ``momentum``, ``weight_decay``.
        fused: update a group in a few kernels; None: on GPUs.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, fused: bool | None = None) -> None:
        defaults = {"rule": "sgd", "lr": 0.0, "momentum": 0.9, "weight_decay": 0.0, "iterations": _ITERATIONS}
        super().__init__(groups, defaults)
        for group in self.param_groups:
            group["peak_lr"] = group["lr"]
        self._fused = fused

    def set_factor(self, factor: float) -> None:
        """Sets every learning rate to its peak times the factor."""
        for group in self.param_groups:
            group["lr"] = group["peak_lr"] * factor

    @torch.no_grad()
    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one update."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            whole = _FUSED.get(group["rule"]) if parameters and self._is_fused(parameters[0]) else None
            if whole is not None:
                whole(parameters, group, self.state)
                continue
            for parameter in parameters:
                _RULES[group["rule"]](parameter, group, self.state[parameter])
        return result

    def _is_fused(self, parameter: torch.Tensor) -> bool:
        return parameter.is_cuda if self._fused is None else self._fused


def orthogonalize(g_OI: torch.Tensor, *, steps: int = _ITERATIONS) -> torch.Tensor:
    """Returns the nearest semi-orthogonal matrix, roughly, by a quintic Newton-Schulz iteration.

    "Muon", K. Jordan and others, 2024. Three iterations, as in its fast CIFAR-10 runs: the large singular
    values end between about 0.7 and 1.2, the small ones grow several times.

    Args:
        g_OI: a matrix, or a batch of them; worked on in bfloat16 where the device computes in that, else in float32.
        steps: iterations.
    """
    a, b, c = _NEWTON_SCHULZ
    x_OI = g_OI.bfloat16() if prefers_bfloat16(g_OI.device) else g_OI.float()
    tall = x_OI.shape[-2] > x_OI.shape[-1]
    x_OI = x_OI.mT if tall else x_OI
    x_OI = x_OI / (x_OI.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x_OI.dtype == torch.float32:
        x_OI = _through_gram(x_OI, steps=steps)
    else:
        for _ in range(steps):
            gram = x_OI @ x_OI.mT
            x_OI = a * x_OI + (b * gram + c * gram @ gram) @ x_OI
    result: torch.Tensor = (x_OI.mT if tall else x_OI).to(g_OI.dtype)
    return result


def _through_gram(x_OI: torch.Tensor, *, steps: int) -> torch.Tensor:
    """Returns what the iteration gives, by polynomials of the small matrix x x' and one product with x at the end.

    Half of the work where x is nine times as wide as high. In bfloat16 the powers of x x' would lose too much.
    """
    a, b, c = _NEWTON_SCHULZ
    gram_OO = x_OI @ x_OI.mT
    whole_OO = None
    for step in range(steps):
        factor_OO = b * gram_OO + c * gram_OO @ gram_OO
        factor_OO.diagonal(dim1=-2, dim2=-1).add_(a)
        whole_OO = factor_OO if whole_OO is None else factor_OO @ whole_OO
        if step < steps - 1:
            gram_OO = factor_OO @ gram_OO @ factor_OO
    assert whole_OO is not None, "there is at least one step"
    return whole_OO @ x_OI


def _momentum(parameter: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
    buffer: torch.Tensor = state.setdefault("momentum", torch.zeros_like(parameter))
    return buffer


def _muon(parameter: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
    buffer = _momentum(parameter, state)
    buffer.lerp_(parameter.grad, 1 - group["momentum"])  # type: ignore[arg-type]
    update = parameter.grad.lerp(buffer, group["momentum"])  # type: ignore[union-attr]
    ortho = orthogonalize(update.flatten(1), steps=group.get("iterations", _ITERATIONS)).view(parameter.shape)
    # The root-mean-square of the update is that of Adam (0.2 times the larger side), arXiv:2502.16982.
    rows, columns = parameter.shape[0], parameter[0].numel()
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.add_(ortho, alpha=-group["lr"] * 0.2 * math.sqrt(max(rows, columns)))


def _sgd(parameter: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
    assert parameter.grad is not None
    gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
    buffer = _momentum(parameter, state)
    buffer.mul_(group["momentum"]).add_(gradient)
    parameter.add_(buffer, alpha=-group["lr"])


def _lars(parameter: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
    """LARS, arXiv:1708.03888, trust coefficient 0.001, not on biases and normalisation."""
    assert parameter.grad is not None
    gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
    if parameter.ndim > 1:
        ratio = 0.001 * parameter.norm() / (gradient.norm() + _EPSILON)
        gradient = gradient * torch.where(parameter.norm() > 0, ratio, 1.0)
    buffer = _momentum(parameter, state)
    buffer.mul_(group["momentum"]).add_(gradient)
    parameter.add_(buffer, alpha=-group["lr"])


def _adamw(parameter: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
    assert parameter.grad is not None
    beta1, beta2 = 0.9, 0.99
    first = _momentum(parameter, state)
    second: torch.Tensor = state.setdefault("second", torch.zeros_like(parameter))
    state["count"] = count = state.get("count", 0) + 1
    first.lerp_(parameter.grad, 1 - beta1)
    second.lerp_(parameter.grad.square(), 1 - beta2)
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    denominator = (second / (1 - beta2**count)).sqrt_().add_(_EPSILON)
    parameter.addcdiv_(first, denominator, value=-group["lr"] / (1 - beta1**count))


_RULES: dict[str, Callable[[torch.Tensor, dict[str, Any], dict[str, Any]], None]] = {
    "muon": _muon,
    "sgd": _sgd,
    "lars": _lars,
    "adamw": _adamw,
}

_FUSED: dict[str, Callable[[list[torch.Tensor], dict[str, Any], Any], None]] = {
    "muon": functools.partial(fused.batched_muon, orthogonalize),
    "sgd": fused.fused_sgd,
    "adamw": fused.fused_adamw,
}


def create(
    config: OptimizerConfig, modules: Iterable[nn.Module], *, batch_size: int, scales: Sequence[float] = ()
) -> MixedOptimizer:
    """Makes the optimiser of some modules; see ``groups_of``."""
    return MixedOptimizer(groups_of(config, modules, batch_size=batch_size, scales=scales))


def groups_of(
    config: OptimizerConfig, modules: Iterable[nn.Module], *, batch_size: int, scales: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """Returns the groups of parameters of some modules, each with its rule and rates.

    Args:
        config: which optimiser, and its rates.
        modules: what is trained, the backbone first.
        batch_size: images in a step; the rate of SGD, LARS and AdamW is proportional to it.
        scales: of the rates of each module; 1 where there is none.
    """
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for number, (module, scale) in enumerate(itertools.zip_longest(modules, scales, fillvalue=1.0)):
        assert isinstance(module, nn.Module)
        assert isinstance(scale, float)
        plain = number > 0 and config.name == "muon" and config.heads == "adamw"
        found.setdefault((scale, plain), []).extend(p for p in module.parameters() if p.requires_grad)
    groups = [
        {"params": params, "rule": rule, "lr": lr * scale, "weight_decay": decay, "momentum": config.momentum}
        | ({"iterations": config.iterations} if rule == "muon" else {})
        for (scale, plain), parameters in found.items()
        for params, (rule, lr), decay in _parted(config, parameters, batch_size=batch_size, plain=plain)
    ]
    return [group for group in groups if group["params"]]


def _parted(
    config: OptimizerConfig, parameters: list[nn.Parameter], *, batch_size: int, plain: bool
) -> list[tuple[list[nn.Parameter], tuple[str, float], float]]:
    """Returns matrices and the rest, each with rule, rate and decay; no Muon where ``plain``."""
    matrices = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    beside = ("adamw", config.adam_lr)
    if config.name == "muon":
        rules = (beside if plain else ("muon", config.lr), beside)
    else:
        rules = ((config.name, config.lr * batch_size / _REFERENCE_BATCH),) * 2
    return [(matrices, rules[0], config.weight_decay), (others, rules[1], 0.0)]


def factor(config: OptimizerConfig, progress: float) -> float:
    """Returns the learning rate as a fraction of its peak.

    Args:
        config: warm-up and schedule.
        progress: fraction of the budget that is spent, in [0, 1].
    """
    if progress < config.warmup:
        return max(progress / config.warmup, 1e-3)
    if config.schedule == "constant":
        return 1.0
    rest = (progress - config.warmup) / max(1.0 - config.warmup, 1e-9)
    fall = 0.5 * (1 + math.cos(math.pi * min(rest, 1.0))) if config.schedule == "cosine" else 1.0 - min(rest, 1.0)
    return config.final + (1 - config.final) * fall
