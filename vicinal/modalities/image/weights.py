"""Weights that others have trained: read from safetensors or torchvision, fitted to a backbone by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from safetensors import SafetensorError
from safetensors.torch import load_file

from vicinal.errors import InvalidArgumentError, UnavailableError, did_you_mean
from vicinal.modalities.image import efficientnet_lite
from vicinal.modalities.image.backbones import TORCHVISION, Backbone

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WRAPPERS = ("module.", "model.", "backbone.", "encoder.", "body.")
_UNDERSCORE = re.compile(r"(^|\.)_")
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Weights of torchvision."""

    encoder: str
    """The backbone that they are of."""
    mean: tuple[float, ...]
    """Of their normalisation."""
    std: tuple[float, ...]
    """Of their normalisation."""
    side: int
    """Side of the images that they were trained for, in pixels."""
    entry: Any
    """Torchvision's own record."""

    def download(self) -> dict[str, torch.Tensor]:
        """Returns the weights, from torch's cache where they are there.

        Raises:
            UnavailableError: they cannot be downloaded; says what to do.
        """
        try:
            state: dict[str, torch.Tensor] = self.entry.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
        except (OSError, RuntimeError) as error:
            raise UnavailableError(
                f"the weights {self.entry} cannot be downloaded from {self.entry.url}: {error}; download them where "
                f"there is a network, save them as safetensors, and give --weights FILE.safetensors "
                f"--encoder {self.encoder}"
            ) from error
        return state


def published(name: str) -> Published:
    """Returns what is known of weights of torchvision, without downloading them.

    Args:
        name: such as ``ResNet18_Weights.IMAGENET1K_V1``.

    Raises:
        InvalidArgumentError: no such weights, or of a network that is no encoder here.
    """
    known = {
        str(entry): (model, entry) for model in TORCHVISION for entry in torchvision.models.get_model_weights(model)
    }
    known |= {f"{type(entry).__name__}.DEFAULT": (model, type(entry).DEFAULT) for model, entry in known.values()}
    if name not in known:
        raise InvalidArgumentError(f"unknown weights {name!r}{did_you_mean(name, known)}", field="weights")
    model, entry = known[name]
    transforms = entry.transforms()
    return Published(
        encoder=model,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        side=int(transforms.crop_size[0]),
        entry=entry,
    )


def normalization(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns mean and std that published weights of an encoder expect; None where there is no convention."""
    if encoder == "efficientnet-lite0":
        return efficientnet_lite.MEAN, efficientnet_lite.STD
    return (IMAGENET_MEAN, IMAGENET_STD) if encoder in TORCHVISION else None


def read(path: Path) -> dict[str, torch.Tensor]:
    """Reads a safetensors file.

    Raises:
        InvalidArgumentError: it is missing, damaged, or of a format that can run code when it is opened.
    """
    if path.suffix in {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar"}:
        raise InvalidArgumentError(
            f"{path} is a pickled file, which can run code when it is opened; convert it where you trust it: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')",
            field="weights",
        )
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InvalidArgumentError(f"cannot read the weights {path}: {error}", field="weights") from error
    return tensors


def stem_channels(tensors: Mapping[str, torch.Tensor]) -> int | None:
    """Returns the channels of the images that weights are made for, None where no stem is found."""
    kernels = [tensor for tensor in tensors.values() if tensor.ndim == 4 and tensor.shape[1] in {1, 3}]
    # Depthwise kernels have one channel too: a stem of 3 decides, else the first kernel.
    if any(tensor.shape[1] == 3 for tensor in kernels):
        return 3
    return int(kernels[0].shape[1]) if kernels else None


def fit(backbone: Backbone, tensors: Mapping[str, torch.Tensor], *, encoder: str, source: str) -> None:
    """Puts weights into a backbone; every one must be there, and none too many.

    Prefixes that all names share (``module.``, ``backbone.``, ...), underscores that begin a part of a
    name, and the classifier that the backbone does not have are passed over.

    Args:
        backbone: made by ``backbones.create``.
        tensors: by name.
        encoder: name of the backbone, for messages.
        source: where the weights come from, for messages.

    Raises:
        InvalidArgumentError: names or shapes do not fit, which are named; or a value is not finite.
    """
    wanted = backbone.state_dict()
    given = _names(tensors, head=backbone.head)
    # Older files do not count the batches that a normalisation has seen.
    spare = {name: wanted[name] for name in wanted if name.endswith("num_batches_tracked") and name not in given}
    missing = sorted(wanted.keys() - given.keys() - spare.keys())
    unexpected = sorted(given.keys() - wanted.keys())
    wrong = [
        f"{_bare(name)} is {tuple(given[name].shape)}, wanted {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & given.keys())
        if given[name].shape != wanted[name].shape
    ]
    if missing or unexpected or wrong:
        parts = [
            _some("missing", [_bare(name) for name in missing]),
            _some("unexpected", [_bare(name) for name in unexpected]),
            _some("of another shape", wrong),
        ]
        raise InvalidArgumentError(
            f"the weights {source} are not of encoder {encoder!r}: {'; '.join(part for part in parts if part)}; "
            "name the encoder they are of with --encoder",
            field="weights",
        )
    if odd := [_bare(name) for name, tensor in given.items() if not bool(tensor.isfinite().all())]:
        raise InvalidArgumentError(f"the weights {source} are not finite: {_some('tensors', odd)}", field="weights")
    backbone.load_state_dict(spare | dict(given))


def _names(tensors: Mapping[str, torch.Tensor], *, head: str) -> dict[str, torch.Tensor]:
    names = {name: name for name in tensors}
    for prefix in _WRAPPERS:
        if names and all(short.startswith(prefix) for short in names.values()):
            names = {name: short.removeprefix(prefix) for name, short in names.items()}
    bare = {name: _UNDERSCORE.sub(r"\1", short) for name, short in names.items()}
    return {
        f"body.{short}": tensors[name] for name, short in bare.items() if not head or not short.startswith(f"{head}.")
    }


def _bare(name: str) -> str:
    return name.removeprefix("body.")


def _some(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})"
