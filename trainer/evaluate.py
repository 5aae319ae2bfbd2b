"""What an encoder is worth: kNN, linear probe and few labels, beside pixels, random and scratch."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from trainer.device import prefers_bfloat16, quick_autocast
from trainer.knn import knn_accuracy
from trainer.monitor import calibrate, chunk_of, raw_pixels
from trainer.probes import centroid_predict, linear_predict
from trainer.readout import SAMPLE, ReadoutConfig, Sample, fit_readout
from trainer.scratch import scratch_accuracy
from trainer.splits import EvaluationConfig, Split, draw_shots, read_splits
from vicinal.encoder import Encoder
from vicinal.errors import InvalidArgumentError
from vicinal.types import F32Array, JsonObject, U8Array

__all__ = ["EvaluationConfig", "Split", "evaluate", "knn_accuracy", "read_splits", "shots_of"]


def evaluate(
    encoder: Encoder,
    train: Split,
    test: Split,
    config: EvaluationConfig,
    *,
    said: Callable[[str], None] = lambda _: None,
) -> JsonObject:
    """Measures an encoder and its baselines on the same images.

    Args:
        encoder: the encoder.
        train: labelled images.
        test: queries.
        config: what to measure.
        said: told what is being done.

    Returns:
        JSON values: ``knn``, ``linear``, ``few_shot`` (of the first number of shots), ``shots`` (of all),
        counts and seconds; accuracies in [0, 1].

    Raises:
        InvalidArgumentError: a class has fewer images than there are shots.
    """
    least = int(np.bincount(train.y_N).min())
    if max(config.shots, default=0) > least:
        raise InvalidArgumentError(
            f"{max(config.shots)} shots were asked for, the smallest class has {least} images", field="shots"
        )
    seconds: dict[str, float] = {}
    rows: dict[str, tuple[F32Array, F32Array]] = {}
    for name, embed in _embedders(encoder, train).items():
        said(f"embedding by {name}")
        started = time.perf_counter()
        rows[name] = (embed(train.x_NCHW), embed(test.x_NCHW))
        seconds[f"embed_{name}"] = time.perf_counter() - started
    said("measuring")
    started = time.perf_counter()
    knn = {
        name: knn_accuracy(x_ND, train.y_N, x_QD, test.y_N, k=config.neighbor_count)
        for name, (x_ND, x_QD) in rows.items()
    }
    seconds["knn"] = time.perf_counter() - started
    started = time.perf_counter()
    linear = {
        name: float((linear_predict(x_ND, train.y_N, x_QD) == test.y_N).mean()) for name, (x_ND, x_QD) in rows.items()
    }
    seconds["linear"] = time.perf_counter() - started
    shots = {}
    for count in config.shots:
        said(f"{count} labels a class")
        started = time.perf_counter()
        shots[str(count)] = _few_shot(encoder, train, test, rows, config, count=count)
        seconds[f"shots_{count}"] = time.perf_counter() - started
    return {
        "knn": knn,
        "linear": linear,
        "few_shot": shots[str(config.shots[0])] if config.shots else {},
        "shots": shots,
        "counts": {"train": len(train.y_N), "test": len(test.y_N), "classes": int(train.y_N.max()) + 1},
        "seconds": seconds,
    }


def _embedders(encoder: Encoder, train: Split) -> dict[str, Callable[[U8Array], F32Array]]:
    torch.manual_seed(0)
    untrained = encoder.untrained()
    sample_BCHW = encoder.preprocessing.normalize(
        torch.from_numpy(train.x_NCHW[: chunk_of(encoder.preprocessing.height)])
    )
    untrained.whiten(sample_BCHW)
    calibrate(untrained, sample_BCHW, device=torch.device("cpu"))
    if encoder.model.readout is not None:
        # A readout alone does much: the baseline has one too.
        views = encoder.manifest.body["metadata"].get("config", {}).get("views", {})
        settings = ReadoutConfig(
            dimension=encoder.dimension,
            mirror=bool(views.get("flip")),
            bfloat16=prefers_bfloat16(encoder.device),
        )
        some = Sample(train.x_NCHW, count=SAMPLE, seed=0)
        fit_readout(untrained, some, encoder.preprocessing.normalize, settings)
    random = Encoder(
        untrained,
        preprocessing=encoder.preprocessing,
        metric=encoder.metric,
        manifest=encoder.manifest,
        device=encoder.device,
    )

    def embed_random(x_NCHW: U8Array) -> F32Array:
        # Two or three times as quick, and no baseline is decided by a rounding.
        with quick_autocast(encoder.device):
            return random.embed(x_NCHW)

    return {
        "encoder": encoder.embed,
        "random": embed_random,
        "pixels": raw_pixels,
    }


def _few_shot(
    encoder: Encoder,
    train: Split,
    test: Split,
    rows: dict[str, tuple[F32Array, F32Array]],
    config: EvaluationConfig,
    *,
    count: int,
) -> JsonObject:
    scores: dict[str, list[float]] = {"frozen": [], "centroid": [], "pixels": [], "random": [], "scratch": []}
    x_ND, x_QD = rows["encoder"]
    for draw in range(config.draws):
        chosen = draw_shots(train.y_N, count=count, seed=[config.seed, count, draw])
        y_S = train.y_N[chosen]
        for name, key in (("frozen", "encoder"), ("pixels", "pixels"), ("random", "random")):
            predicted_Q = linear_predict(rows[key][0][chosen], y_S, rows[key][1])
            scores[name].append(float((predicted_Q == test.y_N).mean()))
        scores["centroid"].append(float((centroid_predict(x_ND[chosen], y_S, x_QD) == test.y_N).mean()))
        if draw < config.scratch_draws:
            labelled = Split(x_NCHW=train.x_NCHW[chosen], y_N=y_S)
            accuracy = scratch_accuracy(encoder, labelled, test, seed=config.seed + draw)
            scores["scratch"].append(accuracy)
    result: dict[str, Any] = {name: float(np.mean(values)) for name, values in scores.items() if values}
    result["std"] = {name: float(np.std(values)) for name, values in scores.items() if values}
    result["draws"] = {name: len(values) for name, values in scores.items() if values}
    return result


def shots_of(text: Sequence[str]) -> tuple[int, ...]:
    """Returns the numbers of shots of ``--shots 1,5 --shots 10``.

    Raises:
        InvalidArgumentError: one is not a whole number of 1 or more.
    """
    parts = [part for entry in text for part in entry.split(",") if part]
    if not all(part.isascii() and part.isdecimal() and int(part[:9]) > 0 for part in parts):
        raise InvalidArgumentError(
            f"--shots {','.join(parts)!r}: wanted whole numbers from 1, as 1,5,10", field="shots"
        )
    return tuple(int(part) for part in parts)
