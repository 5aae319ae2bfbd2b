"""The readout: the embedding as a map of all stages of the trained network, made without labels.

The features of all stages are centred, turned to their principal axes and divided by a power of the standard
deviations there, so that the few directions that most images share do not drown the others: "Negative evidences
and co-occurrences in image retrieval: the benefit of PCA and whitening", Jegou and Chum, ECCV 2012. The
covariance is shrunk as in "A well-conditioned estimator for large-dimensional covariance matrices", Ledoit and Wolf,
Journal of Multivariate Analysis 88 (2004), eq. 14.

Beside the axes there are spectral coordinates (see ``trainer.spectral``), where the images suffice to find them.

Differs: a power below one, which keeps more of what few labels are learned from than full whitening does.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from trainer.config import PretrainConfig
from trainer.monitor import chunk_of
from trainer.spectral import learn_coordinates
from trainer.start import Start
from vicinal.modalities.image.backbones import Backbone
from vicinal.modalities.image.readout import SpectralReadout
from vicinal.types import F32Array, U8Array

POWER, SPECTRAL_POWER = 0.4, 0.8
"""Of the standard deviations that the axes are divided by, without and with spectral coordinates beside them: 0 leaves
them as they are, 1 whitens. A larger one helps neighbors and costs few labels, which the coordinates more than give
back."""
LEAST_IMAGES = 1_000
"""With fewer, the embedding stays as the network gives it: their covariance says little."""
_DIMENSION = 768
_MOST_SPECTRAL, _LEAST_SPECTRAL, _SPECTRAL_PART = 48, 8, 16
"""Spectral coordinates are a sixteenth of the dimensions, at most 48; there are none where that is below 8."""
_SPECTRAL_SHARE = 0.65
"""Their length where that of the axes is 1."""
SMALL_SAMPLE, SAMPLE = 2_000, 50_000
"""Least and most images that spectral coordinates are made from, where there are so many."""
_VIEWS_AN_IMAGE = 12
"""Of training, for each of those images: the readout takes about a tenth of the time of training."""
_AXES_SAMPLE, _AXES_RATIO = 5_000, 6
"""Images that the axes are made from, or that many for each dimension: more do not better 768 of them, but 2,304."""
_SMALLEST = 1e-7
_MARGIN = 3
"""Of 32 parts of a side, what an enlarged look leaves out at each end."""


def dimension_for(config: PretrainConfig, backbone: Backbone, *, image_count: int, start: Start | None = None) -> int:
    """Returns the dimension that is read out when training ends; 0: the embedding stays as the network gives it.

    Args:
        config: what was asked for.
        backbone: the network.
        image_count: images that it is trained on.
        start: the weights that it begins with; what had a readout has one again.
    """
    if config.dimension is not None:
        return config.dimension
    if start is not None:
        return start.readout
    if image_count < LEAST_IMAGES:
        return 0
    return min(_DIMENSION, backbone.feature_dimension)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadoutConfig:
    """How a readout is made."""

    dimension: int
    """D of the embedding from then on."""
    seed: int = 0
    """Of what the coordinates are learned with."""
    mirror: bool = False
    """Whether an image shows the same when it is mirrored left to right; then its coordinates are the same."""
    bfloat16: bool = False
    """Whether to compute the features in bfloat16."""


def sample_size(views: int) -> int:
    """Returns how many images a readout is made from after training on so many views."""
    return min(max(views // _VIEWS_AN_IMAGE, SMALL_SAMPLE), SAMPLE)


class Sample:
    """Some of the images, drawn by a seed, in batches that take little memory; all where there are no more.

    Args:
        x_NCHW: images, uint8.
        count: of them to draw.
        seed: of the draw.
    """

    def __init__(self, x_NCHW: U8Array, *, count: int, seed: int) -> None:
        self._x_NCHW, self._seed = x_NCHW, seed
        self._rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(x_NCHW))[:count])

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._rows)

    def part(self, count: int) -> "Sample":
        """Returns so many of its images, drawn; all where there are no more."""
        return Sample(self._x_NCHW, count=min(count, len(self)), seed=self._seed)

    def __iter__(self) -> Iterator[U8Array]:
        """Yields the images, the same ones each time, as x_BCHW."""
        step = chunk_of(self._x_NCHW.shape[-1])
        for start in range(0, len(self._rows), step):
            yield self._x_NCHW[self._rows[start : start + step]]


def fit_readout(
    backbone: Backbone,
    sample: Sample,
    normalize: Callable[[torch.Tensor], torch.Tensor],
    config: ReadoutConfig,
) -> None:
    """Makes the readout of a trained network from some of its images, in place.

    Args:
        backbone: the network, without a readout; left in the mode that it was in.
        sample: images, uint8.
        normalize: from images, uint8, to what the network takes.
        config: what is made.
    """
    place = next(backbone.parameters()).device
    was_training = backbone.training

    def features(images_BCHW: U8Array, look: Look) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(place.type, dtype=torch.bfloat16, enabled=config.bfloat16):
            x_BCHW = look(normalize(torch.from_numpy(images_BCHW).to(place)))
            return backbone.features(x_BCHW.contiguous(memory_format=torch.channels_last)).cpu()

    backbone.eval()
    some = sample.part(max(_AXES_SAMPLE, _AXES_RATIO * config.dimension))
    some_NF = torch.cat([features(images_BCHW, as_it_is) for images_BCHW in some])
    spectral = spectral_for(config.dimension, image_count=len(sample))
    power = SPECTRAL_POWER if spectral else POWER
    mean_F, weight_AF = half_whitening(some_NF.numpy(), dimension=config.dimension - spectral, power=power)
    readout = backbone.read_out(config.dimension, spectral=spectral)
    axes = readout.axes if isinstance(readout, SpectralReadout) else readout
    with torch.no_grad():
        axes.weight.copy_(torch.from_numpy(weight_AF))
        axes.bias.copy_(torch.from_numpy(-weight_AF @ mean_F))
    if isinstance(readout, SpectralReadout):
        readout.share.fill_(_SPECTRAL_SHARE)
        # On the axes they take a third of the memory of all features.
        x_VNA = torch.empty(2, len(sample), config.dimension - spectral)
        with torch.no_grad():
            for x_NA, look in zip(x_VNA, (as_it_is, mirrored_and_zoomed if config.mirror else zoomed), strict=True):
                start = 0
                for images_BCHW in sample:
                    x_NA[start : start + len(images_BCHW)] = readout.project(features(images_BCHW, look))
                    start += len(images_BCHW)
        learn_coordinates(readout, x_VNA, seed=config.seed)
    backbone.train(was_training)
    readout.to(place).eval()


Look = Callable[[torch.Tensor], torch.Tensor]
"""An image seen otherwise: from normalised x_BCHW to such."""


def as_it_is(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Returns the images."""
    return x_BCHW


def zoomed(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Returns the middle of the images, 13/16 of each side, at their size."""
    height, width = x_BCHW.shape[-2:]
    top, left = (max(1, side * _MARGIN // 32) for side in (height, width))
    middle_BChw = x_BCHW[..., top : height - top, left : width - left]
    return functional.interpolate(middle_BChw, size=(height, width), mode="bilinear")


def mirrored_and_zoomed(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Returns the same with left and right exchanged."""
    return zoomed(x_BCHW.flip(-1))


def spectral_for(dimension: int, *, image_count: int) -> int:
    """Returns how many of D dimensions are spectral coordinates, from so many images."""
    count = min(_MOST_SPECTRAL, dimension // _SPECTRAL_PART)
    return count if count >= _LEAST_SPECTRAL and image_count >= LEAST_IMAGES else 0


def shape_of(readout: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Returns what ``backbones.create`` takes for a readout, from its state.

    Raises:
        KeyError: it is the state of something else.
    """
    if "bias" in readout:
        return {"readout": len(readout["bias"])}
    axes, last = len(readout["axes.bias"]), len(readout["coordinates.3.bias"])
    return {"readout": axes + last, "spectral": last}


def half_whitening(x_NF: F32Array, *, dimension: int, power: float = POWER) -> tuple[F32Array, F32Array]:
    """Returns mean_F and weight_DF, float32, so that weight_DF (x_F - mean_F) is the embedding of features x_F.

    Args:
        x_NF: features, float32, N at least 2.
        dimension: D, the principal axes that are kept, at most F.
        power: of the standard deviations that they are divided by.
    """
    mean_F: F32Array = x_NF.mean(axis=0)
    x = torch.from_numpy(x_NF - mean_F)
    cov_FF = (x.t() @ x / len(x)).double()
    feature_count = len(cov_FF)
    level = float(cov_FF.trace()) / feature_count
    # Ledoit and Wolf: how far the covariance is from a multiple of the identity, and how much of that is chance.
    apart = float((cov_FF - level * torch.eye(feature_count, dtype=torch.float64)).square().sum())
    chance = (float(x.square().sum(dim=1).double().square().mean()) - float(cov_FF.square().sum())) / len(x)
    shrunk = min(max(chance / apart, 0.0), 1.0) if apart > 0 else 1.0
    values_F, axes_FF = torch.linalg.eigh(cov_FF)
    values_D = ((1 - shrunk) * values_F + shrunk * level).flip(0)[:dimension]
    values_D = values_D.clamp(min=max(float(values_D[0]) * _SMALLEST, 1e-30))
    axes_DF = axes_FF.flip(1)[:, :dimension].t()
    # The sign of an axis is arbitrary: its largest component is positive, so that runs compare.
    largest_D1 = axes_DF.abs().argmax(dim=1, keepdim=True)
    axes_DF = axes_DF * axes_DF.gather(1, largest_D1).sign()
    weight_DF = axes_DF * values_D.pow(-power / 2)[:, None]
    # Of unit length on average, also where the metric does not divide by it.
    weight_DF = weight_DF / values_D.pow(1 - power).sum().sqrt()
    return mean_F, weight_DF.float().numpy()
