"""From a configuration to what Lightning trains: defaults filled in, module and sampler made."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from trainer import method as methods
from trainer.budget import Budget
from trainer.cache import ImageCache, sample_shape
from trainer.choose import encoder_for, largest_side
from trainer.config import OptimizerConfig, PretrainConfig, ViewConfig
from trainer.data import Sampler
from trainer.module import Plan, PretrainModule
from trainer.start import Start
from trainer.views import ViewMaker
from vicinal import plugins
from vicinal.config import from_mapping, to_mapping
from vicinal.errors import InvalidConfigError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create

_RATE_FROM_WEIGHTS, _WARMUP_FROM_WEIGHTS = 0.01, 0.1
_WHITENED = 2_000
"""Images, about, from which whitening filters are computed."""


def resolve(
    config: PretrainConfig, corpus: str, *, device: torch.device, start: Start | None = None
) -> tuple[PretrainConfig, str]:
    """Fills in what the configuration leaves open: the method's views and optimiser, size, channels, encoder.

    Args:
        config: as the user gave it.
        corpus: spec of the corpus; a few of its images are looked at.
        device: where it will be trained.
        start: the weights that it begins with, if any.

    Returns:
        The configuration, and what was chosen and why as the end of a sentence.

    Raises:
        InvalidArgumentError: no such method.
        InvalidConfigError: an unknown key or a wrong value in a section.
        InvalidCorpusError: the corpus cannot be read.
    """
    cls = methods.load(config.method)
    _merged(ViewConfig, cls.views, config.views, section="views")
    begun = {} if start is None else {"warmup": _WARMUP_FROM_WEIGHTS}
    optimizer = _merged(OptimizerConfig, cls.optimizer, begun | config.optimizer, section="optimizer")
    channels, side, small = _shape(config, corpus, start, device)
    gray = channels == 1
    views = _merged(ViewConfig, cls.views, (cls.gray_views if gray else {}) | config.views, section="views")
    _check_views(config.method, cls, views)
    config = replace(
        config,
        channels=channels,
        image_size=side,
        views=to_mapping(views),
        optimizer=to_mapping(optimizer),
        method_options=(cls.gray_options if gray else {}) | config.method_options,
        backbone_rate=config.backbone_rate or (1.0 if start is None else _RATE_FROM_WEIGHTS),
    )
    if start is not None:
        rate = f"the backbone at {config.backbone_rate:g} of the learning rate"
        return replace(config, encoder=start.encoder), f"{small}; from the weights {start.source}, {rate}"
    if config.encoder != "auto":
        return config, small
    name, why = encoder_for(image_size=side, device=device, budget=config.budget)
    return replace(config, encoder=name), f"{small}; chose {name}: {why}"


def _check_views(name: str, cls: type[methods.Method], views: ViewConfig) -> None:
    got, own = ((each.count, each.local_count) for each in (views, cls.views))
    if cls.any_views and views.count < 2:
        raise InvalidConfigError(f"views.count is {views.count}, wanted 2 or more for {name}", field="views.count")
    if not cls.any_views and got != own:
        able = ", ".join(each for each in plugins.names(methods.FAMILY) if methods.load(each).any_views)
        raise InvalidConfigError(
            f"views.count is {got[0]} and views.local_count {got[1]}, but {name} compares {own[0]} full views"
            f" and {own[1]} smaller ones; {able} take other numbers",
            field="views.count",
        )


def _shape(config: PretrainConfig, corpus: str, start: Start | None, device: torch.device) -> tuple[int, int, str]:
    """Returns channels and side of the images, and why they are made smaller than they are, if so."""
    channels, side, why = config.channels, config.image_size, ""
    if start is not None:
        channels = channels or start.channels
        side = side or (start.side if start.fixed else None)
    if channels is None or side is None:
        most, reason = (start.side, "as the weights were made for") if start else largest_side(device, config.budget)
        found, own = sample_shape(corpus)
        if side is None and own > most:
            why = f"; images of some {own} pixels at {most}, {reason} (--image-size for another)"
        channels, side = channels or found, side or min(own, most)
    return channels, side, why


def architecture_of(config: PretrainConfig) -> dict[str, Any]:
    """Returns what ``backbones.create`` takes, from a resolved configuration."""
    return {"name": config.encoder, "channels": config.channels, "image_size": config.image_size}


def make_module(
    config: PretrainConfig,
    cache: ImageCache,
    preprocessing: Preprocessing,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> tuple[PretrainModule, Sampler]:
    """Makes module and sampler from a resolved configuration, initialised by its seed.

    Args:
        config: the configuration.
        cache: the images.
        preprocessing: size and normalisation.
        weights: state of the backbone to start from, if not from scratch.
    """
    processes = (config.devices or 1) * config.nodes
    sampler = Sampler(count=len(cache.x_NCHW), batch_size=config.batch, seed=config.seed, processes=processes)
    torch.manual_seed(config.seed)
    backbone = create(**architecture_of(config))
    if backbone.whitens:
        step = max(1, len(cache.x_NCHW) // _WHITENED)
        backbone.whiten(preprocessing.normalize(torch.from_numpy(cache.x_NCHW[::step].copy())))
    if weights is not None:
        backbone.load_state_dict(weights)
        backbone.freeze(config.frozen_stages)
    context = methods.MethodContext(
        dimension=backbone.dimension,
        image_count=len(cache.x_NCHW),
        channels=preprocessing.channels,
        image_size=preprocessing.height,
        batch_size=sampler.batch_size,
        backbone=backbone,
    )
    layout = torch.contiguous_format if config.channels_last is False else torch.channels_last
    maker = ViewMaker(
        from_mapping(ViewConfig, config.views, where="views"),
        mean=preprocessing.mean,
        std=preprocessing.std,
        layout=layout,
    )
    sizes = tuple(max(8, round(preprocessing.height * part / 4) * 4) for part in config.resolutions)
    module = PretrainModule(
        backbone.to(memory_format=layout),
        methods.create(config.method, config.method_options, context),
        maker=maker,
        rates=from_mapping(OptimizerConfig, config.optimizer, where="optimizer"),
        budget=Budget(config.budget, steps_per_epoch=sampler.steps_per_epoch),
        plan=Plan(
            sizes=sizes,
            batch_size=sampler.batch_size,
            seed=config.seed,
            backbone_rate=config.backbone_rate or 1.0,
        ),
    )
    return module, sampler


def _merged(cls: type, default: Any, changes: dict[str, Any], *, section: str) -> Any:
    return from_mapping(cls, to_mapping(default) | changes, where=section)
