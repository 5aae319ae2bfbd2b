"""The encoder artifact: a directory with ``manifest.json`` and ``weights.safetensors``, and how to run it.

The fingerprint is the SHA-256 of the weights' digest, the architecture, the preprocessing, the
dimension and the metric: embeddings compare only within one fingerprint.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional

from vicinal import config as typed
from vicinal.artifact import Manifest, canonical_digest, digest_file, read_manifest, storage_guard, write_manifest
from vicinal.errors import (
    CorruptArtifactError,
    InvalidArgumentError,
    InvalidConfigError,
    InvalidImageError,
    VicinalError,
)
from vicinal.modalities.image import MAX_CONTENT_BYTES, MAX_PIXELS, Preprocessing
from vicinal.modalities.image.backbones import Backbone, create
from vicinal.types import F32Array, JsonObject, Metric, U8Array

KIND, FORMAT_VERSION = "encoder", 1
WEIGHTS = "weights.safetensors"
_CHUNK, _LEAST_CHUNK, _CHUNK_PIXELS = 256, 16, 1 << 20
"""Images that pass at once on a CPU: fewer where they are large, so that memory is bounded."""


class Encoder:
    """An encoder that is ready to run; safe to use from several threads.

    Args:
        model: x_BCHW -> x_BD, in evaluation mode.
        preprocessing: what is done to an image first.
        metric: how its embeddings are compared.
        manifest: what the artifact says of itself.
        device: where the model is.
    """

    def __init__(
        self, model: Backbone, *, preprocessing: Preprocessing, metric: Metric, manifest: Manifest, device: torch.device
    ) -> None:
        self.preprocessing = preprocessing
        self.metric = metric
        self.manifest = manifest
        self.device = device
        self.model = model.eval().to(device).to(memory_format=torch.channels_last)
        self.model.requires_grad_(False)  # noqa: FBT003
        fitting = _CHUNK_PIXELS // (preprocessing.height * preprocessing.width)
        self._chunk = _CHUNK if device.type == "cuda" else max(_LEAST_CHUNK, min(_CHUNK, fitting))

    @classmethod
    def load(cls, path: Path, *, device: str = "auto", verify: bool = True) -> "Encoder":
        """Loads an encoder artifact.

        Args:
            path: its directory.
            device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
            verify: compare the SHA-256 of the weights with the manifest.

        Raises:
            ArtifactNotFoundError: there is no encoder at that path.
            CorruptArtifactError: it is damaged or of an unknown version.
            InvalidArgumentError: no such device.
        """
        manifest = read_manifest(path, kind=KIND, version=FORMAT_VERSION, verify=verify)
        place = resolve_device(device)
        try:
            body = manifest.body
            architecture = dict(body["architecture"])
            preprocessing = typed.from_mapping(Preprocessing, body["preprocessing"], where=str(path))
            metric = Metric(body["metric"])
            model = create(str(architecture.pop("name")), **architecture)
            model.load_state_dict(load_file(path / WEIGHTS), strict=True)
            known = (int(body["dimension"]), str(body["fingerprint"]))
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise CorruptArtifactError(f"the encoder at {path} cannot be loaded: {error}") from error
        except (InvalidConfigError, InvalidArgumentError) as error:
            raise CorruptArtifactError(f"the encoder at {path} is of a kind unknown here: {error.message}") from error
        if known != (model.dimension, _fingerprint(body, weights=manifest.files[WEIGHTS]["sha256"])):
            raise CorruptArtifactError(f"the encoder at {path} does not have the fingerprint in its manifest")
        return cls(model, preprocessing=preprocessing, metric=metric, manifest=manifest, device=place)

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits; embeddings compare only within one fingerprint."""
        return str(self.manifest.body["fingerprint"])

    @property
    def dimension(self) -> int:
        """D of the embeddings."""
        return int(self.manifest.body["dimension"])

    @property
    def architecture(self) -> JsonObject:
        """Name and options of the backbone."""
        return dict(self.manifest.body["architecture"])

    def untrained(self) -> Backbone:
        """Returns a new network like this encoder's, with random weights; its embedding is not read out."""
        options = self.architecture
        options.pop("readout", None)
        options.pop("spectral", None)
        return create(str(options.pop("name")), **options)

    def decode(self, content: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_CONTENT_BYTES) -> U8Array:
        """Decodes an image to what ``embed`` takes.

        Args:
            content: the file, such as a JPEG.
            max_pixels: most pixels to accept, judged by the header.
            max_bytes: most bytes to accept.

        Returns:
            x_CHW, uint8, of the encoder's size.

        Raises:
            InvalidImageError: not an image that can be decoded; says why.
        """
        return self.preprocessing.to_image(content, max_pixels=max_pixels, max_bytes=max_bytes)

    def embed(self, x_BCHW: U8Array) -> F32Array:
        """Embeds images.

        Args:
            x_BCHW: uint8, of the encoder's channels and size; B may be 0.

        Returns:
            x_BD, float32, finite; of unit length when the metric is cosine.

        Raises:
            InvalidImageError: another shape or type.
        """
        wanted = (self.preprocessing.channels, self.preprocessing.height, self.preprocessing.width)
        if x_BCHW.dtype != np.uint8 or x_BCHW.ndim != 4 or x_BCHW.shape[1:] != wanted:
            raise InvalidImageError(f"images of {x_BCHW.dtype} {x_BCHW.shape} do not fit: wanted uint8 (B, {wanted})")
        y_BD: F32Array = np.empty((len(x_BCHW), self.dimension), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(x_BCHW), self._chunk):
                x_bCHW = torch.from_numpy(np.ascontiguousarray(x_BCHW[start : start + self._chunk])).to(self.device)
                y_BD[start : start + self._chunk] = self._forward(x_bCHW).cpu().numpy()
        return y_BD

    def embed_contents(self, contents: Sequence[bytes]) -> tuple[F32Array, list[VicinalError | None]]:
        """Decodes and embeds images; one that cannot be decoded does not disturb the others.

        Args:
            contents: B files.

        Returns:
            x_BD as ``embed`` gives it, with rows of zeros for what failed; and B errors or Nones.
        """
        images: list[U8Array] = []
        errors: list[VicinalError | None] = []
        for content in contents:
            try:
                images.append(self.decode(content))
                errors.append(None)
            except InvalidImageError as error:
                errors.append(error)
        y_BD: F32Array = np.zeros((len(contents), self.dimension), dtype=np.float32)
        if images:
            y_BD[[error is None for error in errors]] = self.embed(np.stack(images))
        return y_BD, errors

    def _forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.preprocessing.normalize(x_BCHW).contiguous(memory_format=torch.channels_last)
        y_BD = self.model(x_BCHW).float()
        return functional.normalize(y_BD, dim=1) if self.metric is Metric.COSINE else y_BD


def save(
    directory: Path,
    *,
    model: Backbone,
    architecture: Mapping[str, Any],
    preprocessing: Preprocessing,
    metric: Metric,
    metadata: Mapping[str, Any],
) -> str:
    """Writes an encoder artifact into an empty directory, such as one of ``Store.stage("encoders")``.

    Args:
        directory: where to; made if missing.
        model: made by ``backbones.create`` with that architecture.
        architecture: ``{"name": ..., "channels": ..., "image_size": ...}``, ``readout`` where it has one, and
            ``spectral`` where a part of that is.
        preprocessing: what is done to an image first.
        metric: how its embeddings are compared.
        metadata: JSON values to keep beside it: resolved config, corpus, metrics, health.

    Returns:
        The fingerprint.

    Raises:
        StorageError: the disk is full or failed.
    """
    with storage_guard(directory):
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, directory / WEIGHTS)
    body: JsonObject = {
        "architecture": dict(architecture),
        "preprocessing": typed.to_mapping(preprocessing),
        "dimension": model.dimension,
        "metric": metric.value,
        "metadata": dict(metadata),
    }
    body["fingerprint"] = _fingerprint(body, weights=digest_file(directory / WEIGHTS))
    write_manifest(directory, kind=KIND, version=FORMAT_VERSION, body=body)
    return str(body["fingerprint"])


def resolve_device(device: str) -> torch.device:
    """Returns the device of a name; ``auto`` is a GPU where there is one.

    Raises:
        InvalidArgumentError: no such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InvalidArgumentError(f"no device {device!r}; use auto, cpu or cuda", field="device") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InvalidArgumentError(
            f"device {device!r} is not there: {torch.cuda.device_count()} CUDA devices; use auto or cpu", field="device"
        )
    return place


def _fingerprint(body: Mapping[str, Any], *, weights: str) -> str:
    keys = ("architecture", "preprocessing", "dimension", "metric")
    return canonical_digest({"weights": weights, **{key: body[key] for key in keys}})
