"""Where a run starts when not from scratch: an encoder of the workspace, a safetensors file, torchvision."""

from dataclasses import dataclass
from pathlib import Path

import torch

from vicinal.artifact import MANIFEST
from vicinal.encoder import Encoder
from vicinal.errors import InvalidArgumentError
from vicinal.modalities.image import weights
from vicinal.modalities.image.backbones import TORCHVISION, Backbone
from vicinal.store import Store

START = "start.safetensors"
"""The weights that a run started from, kept in its directory."""
_SIDE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Weights, and what they were made for."""

    source: str
    """Where they come from, for messages."""
    encoder: str
    """The backbone that they are of."""
    tensors: dict[str, torch.Tensor]
    """By name."""
    channels: int | None
    """Channels of the images, where the weights show it."""
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None
    """Mean and standard deviation that they expect; None: those of the images."""
    side: int
    """Side of the images in pixels: fixed where it is ``fixed``, else the largest that is chosen by itself."""
    fixed: bool
    """Whether the side is part of what was trained: that of an own encoder, or of a vision transformer."""

    readout: int = 0
    """Dimension that was read out of all stages; 0: none."""

    def fill(self, backbone: Backbone) -> None:
        """Puts the weights into a backbone.

        Raises:
            InvalidArgumentError: names or shapes do not fit.
        """
        weights.fit(backbone, self.tensors, encoder=self.encoder, source=self.source)


def find(text: str, *, encoder: str, store: Store) -> Start:
    """Reads the weights that a user names.

    Args:
        text: ``000001``, ``latest`` or ``encoders/000001``: an encoder of the workspace; the directory of an
            encoder; a safetensors file; or a torchvision enum such as ``ResNet18_Weights.IMAGENET1K_V1``.
        encoder: the backbone that the user names, or ``auto``; a file needs its name.
        store: the workspace.

    Raises:
        InvalidArgumentError: none of these, unreadable, or of another backbone than the one that is named.
        ArtifactNotFoundError: no such encoder in the workspace.
        UnavailableError: torchvision's file cannot be downloaded.
    """
    path = Path(text)
    if text == "latest" or text.isdecimal() or text.startswith("encoders/"):
        return _own(store.path("encoders", text), encoder)
    if path.is_dir() and (path / MANIFEST).is_file():
        return _own(path, encoder)
    if path.is_file() or path.suffix == ".safetensors":
        return _file(path, encoder)
    if "_Weights" in text:
        return _torchvision(text, encoder)
    raise InvalidArgumentError(
        f"weights {text!r} are not there: name an encoder of the workspace (latest, 000001), a .safetensors file, or "
        "torchvision weights such as ResNet18_Weights.IMAGENET1K_V1",
        field="weights",
    )


def _own(path: Path, encoder: str) -> Start:
    found = Encoder.load(path, device="cpu")
    name = str(found.architecture["name"])
    _same(encoder, name, str(path.name))
    size = found.preprocessing
    if (size.height, size.resize) != (size.width, "crop"):
        raise InvalidArgumentError(
            f"encoder {path.name} takes {size.height} x {size.width} images by {size.resize!r}; training goes on only "
            "with square images that are cropped",
            field="weights",
        )
    # What is trained is the network; a new readout is made of what it becomes.
    state = found.model.state_dict().items()
    tensors = {name: tensor.clone() for name, tensor in state if not name.startswith("readout.")}
    return Start(
        source=f"of encoder {path.name}", encoder=name, tensors=tensors, channels=size.channels,
        normalization=(size.mean, size.std), side=size.height, fixed=True,
        readout=int(found.architecture.get("readout", 0)),
    )  # fmt: skip


def _file(path: Path, encoder: str) -> Start:
    tensors = weights.read(path)
    if encoder == "auto":
        raise InvalidArgumentError(
            f"the file {path.name} does not say what it is of; name its backbone, such as --encoder resnet18",
            field="encoder",
        )
    return Start(
        source=f"in {path.name}", encoder=encoder, tensors=tensors, channels=weights.stem_channels(tensors),
        normalization=weights.normalization(encoder), side=_SIDE, fixed=encoder.startswith("vit"),
    )  # fmt: skip


def _torchvision(text: str, encoder: str) -> Start:
    found = weights.published(text)
    _same(encoder, found.encoder, text)
    assert found.encoder in TORCHVISION
    return Start(
        source=text, encoder=found.encoder, tensors=found.download(), channels=3,
        normalization=(found.mean, found.std), side=found.side, fixed=found.encoder.startswith("vit"),
    )  # fmt: skip


def _same(asked: str, found: str, source: str) -> None:
    if asked not in {"auto", found}:
        raise InvalidArgumentError(
            f"weights {source!r} are of encoder {found!r}, asked for was {asked!r}; leave --encoder out",
            field="encoder",
        )
