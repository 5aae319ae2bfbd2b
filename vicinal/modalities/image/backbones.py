"""Encoders by name: small residual networks made for CPUs and small images, torchvision's, raw pixels."""

import re
from collections.abc import Callable, Sequence

import torch
import torchvision.models
from torch import nn
from typing_extensions import override

from vicinal.errors import InvalidArgumentError, did_you_mean
from vicinal.modalities.image import efficientnet_lite
from vicinal.modalities.image.readout import SpectralReadout
from vicinal.modalities.image.resnet import SmallResNet
from vicinal.modalities.image.whitening import Whitening

_SMALL = re.compile(r"resnet(10|18|34)-w(\d{1,3})(-s1)?(-grid)?(-white)?$")
TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "convnext_tiny",
    "convnext_small",
    "vit_b_16",
    "vit_b_32",
    "mobilenet_v3_small",
    "efficientnet_b0",
)
"""Names that are torchvision's."""
_SMALL_EXAMPLES = (
    "resnet10-w32",
    "resnet10-w32-grid",
    "resnet10-w32-white",
    "resnet18-w24",
    "resnet18-w32",
    "resnet18-w64-s1",
    "resnet34-w32",
)


class Backbone(nn.Module):
    """A network that gives one embedding an image, and knows its dimension.

    Args:
        body: x_BCHW -> x_BD, or anything that flattens to it.
        dimension: D.
        stages: its modules in the order of the data, in groups that can be frozen.
        head: name of a classifier that it had before it was a backbone; its weights are passed over.
    """

    def __init__(
        self, body: nn.Module, *, dimension: int, stages: Sequence[Sequence[nn.Module]] = (), head: str = ""
    ) -> None:
        super().__init__()
        self.body = body
        self.dimension = dimension
        self.head = head
        # By name, as a copy or a conversion (to SyncBatchNorm) puts other modules in their places.
        called = {module: name for name, module in self.named_modules()}
        self._stages = tuple(tuple(called[module] for module in stage) for stage in stages)
        self._frozen: tuple[str, ...] = ()
        self.readout: nn.Linear | SpectralReadout | None = None

    @property
    def feature_dimension(self) -> int:
        """Features of all stages that can be read out; 0 where the network has no such thing."""
        return self.body.feature_dimension if isinstance(self.body, SmallResNet) else 0

    def features(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns x_BF, the features of all stages, float32."""
        assert isinstance(self.body, SmallResNet)
        return self.body.features(x_BCHW)

    def check_readout(self, dimension: int) -> None:
        """Refuses a dimension that cannot be read out.

        Raises:
            InvalidArgumentError: the network has no features of all stages, or fewer.
        """
        if not 1 <= dimension <= self.feature_dimension:
            able = f"wanted 1 to {self.feature_dimension}" if self.feature_dimension else "this encoder has no readout"
            raise InvalidArgumentError(
                f"dimension is {dimension}, {able}; leave it out, or 0 for the network's own embedding",
                field="dimension",
            )

    def read_out(self, dimension: int, *, spectral: int = 0) -> "nn.Linear | SpectralReadout":
        """Makes the embedding a map of the features of all stages, to be filled by its caller.

        Args:
            dimension: D from now on, 1 to ``feature_dimension``.
            spectral: how many of them are spectral coordinates, below D; with none the map is linear.

        Raises:
            InvalidArgumentError: the network has no such features, or fewer.
        """
        self.check_readout(dimension)
        if not 0 <= spectral < dimension:
            raise InvalidArgumentError(f"spectral is {spectral}, wanted 0 to {dimension - 1}", field="spectral")
        if spectral:
            self.readout = SpectralReadout(self.feature_dimension, dimension=dimension, spectral=spectral)
        else:
            self.readout = nn.Linear(self.feature_dimension, dimension)
        self.readout.requires_grad_(requires_grad=False)
        self.dimension = dimension
        return self.readout

    @property
    def stage_count(self) -> int:
        """Groups of modules that can be frozen, the stem included."""
        return len(self._stages)

    def freeze(self, count: int) -> None:
        """Keeps the first stages as they are: no gradient, and normalisation by its running statistics.

        Args:
            count: stages, from 0 to all but one.

        Raises:
            InvalidArgumentError: there are not so many.
        """
        if not 0 <= count <= max(self.stage_count - 1, 0):
            raise InvalidArgumentError(
                f"frozen_stages is {count}; this encoder has {self.stage_count} stages, so 0 to "
                f"{max(self.stage_count - 1, 0)} can be frozen",
                field="frozen_stages",
            )
        self._frozen = tuple(name for stage in self._stages[:count] for name in stage)
        for name in self._frozen:
            self.get_submodule(name).requires_grad_(False)  # noqa: FBT003
        self.train(self.training)

    @property
    def whitens(self) -> bool:
        """Whether it begins with filters that are computed from images."""
        return any(isinstance(module, Whitening) for module in self.modules())

    def whiten(self, x_BCHW: torch.Tensor) -> None:
        """Computes those filters, where it has them, from normalised images."""
        for module in self.modules():
            if isinstance(module, Whitening):
                module.fit(x_BCHW)

    @override
    def train(self, mode: bool = True) -> "Backbone":
        """Sets the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self

    @override
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns x_BD, of the floating type of the input (or of autocast)."""
        if self.readout is not None:
            read_BD: torch.Tensor = self.readout(self.features(x_BCHW))
            return read_BD
        x_BD: torch.Tensor = self.body(x_BCHW)
        return x_BD.flatten(1)


def names() -> tuple[str, ...]:
    """Returns names that ``create`` knows; the small networks come in any depth 10, 18, 34 and width."""
    return (*_SMALL_EXAMPLES, "efficientnet-lite0", *TORCHVISION, "pixels")


def create(name: str, *, channels: int = 3, image_size: int = 32, readout: int = 0, spectral: int = 0) -> Backbone:
    """Makes a randomly initialised backbone.

    Args:
        name: ``resnet18-w24`` (depth, width; ``-s1`` keeps the full resolution in the stem, ``-grid`` adds a
            2 x 2 grid of the third stage to the embedding, ``-white`` begins with frozen whitening filters),
            ``efficientnet-lite0``, a torchvision name such as ``resnet50``, or ``pixels``, which only flattens.
        channels: channels of the images, 1 or 3.
        image_size: side of the images in pixels; matters to ``pixels`` and to vision transformers.
        readout: dimension of the embedding that is read out of all stages; 0: as the network gives it.
        spectral: how many of these are spectral coordinates.

    Raises:
        InvalidArgumentError: no such backbone, with a suggestion; or it cannot be read out.
    """
    backbone = _create(name, channels=channels, image_size=image_size)
    if readout or spectral:
        backbone.read_out(readout, spectral=spectral)
    return backbone


def _create(name: str, *, channels: int, image_size: int) -> Backbone:
    if name == "pixels":
        return Backbone(nn.Flatten(), dimension=channels * image_size * image_size)
    if match := _SMALL.match(name):
        depth, width, stem = int(match[1]), int(match[2]), 1 if match[3] else 2
        if width < 8 or width % 8:
            raise InvalidArgumentError(f"encoder {name!r}: the width must be a multiple of 8, got {width}")
        small = SmallResNet(
            depth=depth, width=width, channels=channels, stem_stride=stem, layout=bool(match[4]), white=bool(match[5])
        )
        return Backbone(small, dimension=small.dimension, stages=small.stages())
    if name == "efficientnet-lite0":
        lite = efficientnet_lite.EfficientNetLite0(channels=channels)
        return Backbone(lite, dimension=efficientnet_lite.DIMENSION, stages=lite.stages(), head="fc")
    if name in TORCHVISION:
        return _from_torchvision(name, channels=channels, image_size=image_size)
    raise InvalidArgumentError(f"unknown encoder {name!r}{did_you_mean(name, names())}", field="encoder")


def _from_torchvision(name: str, *, channels: int, image_size: int) -> Backbone:
    make: Callable[..., nn.Module] = getattr(torchvision.models, name)
    options = {"image_size": image_size} if name.startswith("vit") else {}
    if name.startswith("vit") and image_size % int(name.rsplit("_", 1)[1]):
        raise InvalidArgumentError(
            f"encoder {name!r} needs an image size that is a multiple of {name.rsplit('_', 1)[1]}"
        )
    network = make(weights=None, **options)
    dimension, head = _remove_head(network)
    if channels != 3:
        _replace_stem(network, channels)
    return Backbone(network, dimension=dimension, stages=_stages(network), head=head)


def _stages(network: nn.Module) -> tuple[tuple[nn.Module, ...], ...]:
    children = dict(network.named_children())
    if "features" in children:
        return tuple((stage,) for stage in children["features"].children())
    if "layer1" in children:
        stem = (children["conv1"], children["bn1"])
        return (stem, *((children[f"layer{number}"],) for number in range(1, 5)))
    return ((children["conv_proj"],), *((layer,) for layer in network.get_submodule("encoder.layers").children()))


def _remove_head(network: nn.Module) -> tuple[int, str]:
    """Replaces the last linear layer by nothing, and returns what it took in and what it was called."""
    linear = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    path, head = linear[-1]
    if path.startswith("classifier.") and path.rsplit(".", 1)[1] == "3":  # mobilenet: a hidden layer before the head
        path, head = linear[-2]
        path = "classifier"
    network.set_submodule(path, nn.Identity())
    return int(head.in_features), path


def _replace_stem(network: nn.Module, channels: int) -> None:
    path, stem = next((p, m) for p, m in network.named_modules() if isinstance(m, nn.Conv2d))
    assert not isinstance(stem.padding, str)
    new = nn.Conv2d(
        channels,
        stem.out_channels,
        kernel_size=(stem.kernel_size[0], stem.kernel_size[1]),
        stride=(stem.stride[0], stem.stride[1]),
        padding=(stem.padding[0], stem.padding[1]),
        bias=stem.bias is not None,
    )
    network.set_submodule(path, new)
