"""Will it fit: what a step keeps for each image, what the machine has, and the batch that follows from both."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from trainer import method as methods
from trainer.config import PretrainConfig, ViewConfig
from vicinal.config import from_mapping
from vicinal.errors import InvalidConfigError

_SMALL, _LARGE = 4, 8
_TRANSIENT = 1.3
"""What the backward pass holds beside what was kept for it, as a factor of that."""
_VIEW_COPIES = 6
"""Float copies of a view while it is made."""
_STATES = 6
"""Copies of the weights: gradients, two of the optimiser, a teacher, a checkpoint being written."""
_SHARE_CHOSEN, _SHARE_GIVEN = 0.7, 0.95
"""How much of the memory that is there a batch may take: one that is chosen here, and one that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a step of training needs, in bytes."""

    fixed: int
    """Whatever the batch."""
    image: int
    """For each image of the batch, with all its views."""

    def of(self, batch: int) -> int:
        """Returns the need of a batch."""
        return self.fixed + batch * self.image

    def largest(self, there: int) -> int:
        """Returns the largest power of two of images that fits, 0 where not even one does."""
        count = (there - self.fixed) // max(self.image, 1)
        return 1 << (count.bit_length() - 1) if count > 0 else 0


def needs_of(config: PretrainConfig, backbone: nn.Module, *, image_count: int, bfloat16: bool) -> Needs:
    """Measures what a step of the method keeps, by steps of four and of eight random images on the CPU.

    Args:
        config: resolved.
        backbone: a copy of it is used.
        image_count: images of the data set.
        bfloat16: whether forward and backward run in bfloat16.
    """
    assert config.image_size is not None
    assert config.channels is not None
    views = from_mapping(ViewConfig, config.views, where="views")
    with torch.random.fork_rng(devices=[]):
        small, _ = _kept(config, backbone, views, _SMALL, image_count=image_count, bfloat16=bfloat16)
        large, weights = _kept(config, backbone, views, _LARGE, image_count=image_count, bfloat16=bfloat16)
    image = max(0, large - small) / (_LARGE - _SMALL)
    pixels = config.channels * config.image_size**2
    shown = pixels * (views.count + views.local_count * views.local_ratio**2)
    return Needs(fixed=_STATES * weights, image=int(_TRANSIENT * image + 4 * _VIEW_COPIES * shown + 5 * pixels))


def _kept(
    config: PretrainConfig, backbone: nn.Module, views: ViewConfig, count: int, *, image_count: int, bfloat16: bool
) -> tuple[int, int]:
    """Returns the bytes that autograd keeps of a step, and those of the weights."""
    model = copy.deepcopy(backbone).train()
    side, channels = config.image_size or 0, config.channels or 0
    context = methods.MethodContext(
        dimension=int(backbone.dimension),  # type: ignore[arg-type]
        image_count=max(image_count, count),
        channels=channels,
        image_size=side,
        batch_size=count,
        backbone=model,
    )
    method = methods.create(config.method, config.method_options, context).train()
    local = max(8, round(side * views.local_ratio))
    drawn = methods.Views(
        full=tuple(torch.rand(count, channels, side, side) for _ in range(views.count)),
        local=tuple(torch.rand(count, channels, local, local) for _ in range(views.local_count)),
        plain_BCHW=torch.rand(count, channels, side, side) if method.needs_plain else None,
        rows_B=torch.arange(count),
        generator=torch.Generator().manual_seed(0),
    )
    parameters = [*model.parameters(), *method.parameters()]
    own = {p.untyped_storage().data_ptr() for p in parameters}
    with _counting() as kept, torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        output = method.step(model, drawn)
    # The graph is alive until here, so no address was used twice.
    total = sum(size for address, size in kept.items() if address not in own)
    del output
    return total, sum(p.numel() * p.element_size() for p in parameters)


@contextmanager
def _counting() -> Iterator[dict[int, int]]:
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        yield kept


def available(device: torch.device, *, processes: int = 1) -> int | None:
    """Returns the bytes that each process can still take, None where nothing says so.

    On a CPU that is what the kernel calls available, and what the control groups of a container leave.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [value for value in (_of_machine(), _of_groups()) if value is not None]
    return min(found) // processes if found else None


def _of_machine(path: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _of_groups(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Returns what the tightest control group leaves, of version 2 and 1; None without a limit."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    left: list[int] = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        base, names = root, ("memory.max", "memory.current", "inactive_file")
        if controllers:
            if "memory" not in controllers.split(","):
                continue
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        place = base / path.strip("/")
        # A container often sees its own group at the root, whatever the path says.
        left += [value for group in {place, *place.parents, base} if (value := _left(group, names)) is not None]
    return min(left, default=None)


def _left(group: Path, names: tuple[str, str, str]) -> int | None:
    try:
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in names[:2])
        if limit == "max" or int(limit) >= 1 << 60:
            return None
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    # Pages of files that nobody uses are given back when memory is asked for.
    return int(limit) - int(used) + int(stat.get(names[2], 0))


def batch_that_fits(
    config: PretrainConfig, needs: Needs, there: int | None, *, processes: int, image_count: int
) -> tuple[int, str]:
    """Returns the images of a step, over all processes, and what is to be said of it.

    Args:
        config: ``batch_size`` None is chosen here.
        needs: of a step.
        there: bytes that each process can take, None where that is not known.
        processes: that share a batch.
        image_count: images of the data set; a step has no more.

    Raises:
        InvalidConfigError: what was asked for does not fit, or nothing does; says what would.
    """
    asked = config.batch
    if there is None:
        return asked, ""
    share = -(-min(asked, image_count) // processes)
    fits = needs.largest(int(_SHARE_CHOSEN * there)) * processes
    if config.batch_size is not None and needs.of(share) <= _SHARE_GIVEN * there:
        return asked, ""
    if config.batch_size is None and fits >= min(asked, image_count):
        return asked, ""
    has = f"{_mib(needs.image)} an image, {_mib(there)} of memory are there for each process"
    if fits < 2 * processes:
        raise InvalidConfigError(
            f"not even two images of {config.image_size} x {config.image_size} fit into a step of {config.encoder}: "
            f"{has}; use a smaller --image-size or --encoder",
            field="batch_size",
        )
    if config.batch_size is not None:
        raise InvalidConfigError(
            f"a batch of {asked} does not fit: {has}; the largest that does is --set batch_size={fits}, "
            "or use a smaller --image-size",
            field="batch_size",
        )
    return fits, f"; a batch of {fits} instead of {asked}: {has}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size < 10 << 20 else f"{size / 2**20:,.0f} MiB"
