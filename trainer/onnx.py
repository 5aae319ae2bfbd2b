"""An encoder as one ONNX file: uint8 images in, embeddings out, held to the original by a parity check."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from vicinal.artifact import storage_guard
from vicinal.encoder import Encoder
from vicinal.errors import FailedPreconditionError
from vicinal.modalities.image import Preprocessing
from vicinal.types import Metric

TOLERANCE = 1e-4
"""Largest difference of a component between the ONNX file and the encoder, relative to the largest component."""
_OPSET = 18
_CHECKED = 9


class _Whole(nn.Module):
    """Normalisation, backbone and unit length in one."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, metric: Metric) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.metric = metric

    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        y_BD = self.model(self.preprocessing.normalize(images))
        return functional.normalize(y_BD, dim=1) if self.metric is Metric.COSINE else y_BD


def export_onnx(encoder: Encoder, path: Path) -> float:
    """Writes an encoder as ONNX, and checks it with onnxruntime on random images.

    The input ``images`` is uint8 (batch, C, H, W), decoded and resized as the manifest's preprocessing
    says; the output ``embeddings`` is float32 (batch, D). The fingerprint is in the file's metadata.

    Args:
        encoder: on the CPU.
        path: file to write; whole or not at all.

    Returns:
        The largest difference of a component, relative to the largest component.

    Raises:
        FailedPreconditionError: the file does not compute what the encoder does; nothing is written.
        StorageError: the disk is full or failed.
    """
    import onnx  # noqa: PLC0415  (slow to import, used here only)

    wanted = encoder.preprocessing
    whole = _Whole(encoder.model, wanted, encoder.metric).eval()
    shape = (_CHECKED, wanted.channels, wanted.height, wanted.width)
    x_BCHW = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            whole,
            (torch.from_numpy(x_BCHW[:2]),),
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=_OPSET,
            dynamo=True,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"vicinal.fingerprint": encoder.fingerprint, "vicinal.metric": encoder.metric})
    content = proto.SerializeToString()
    difference = _difference(content, x_BCHW, encoder)
    if not difference <= TOLERANCE:
        raise FailedPreconditionError(
            f"the ONNX file differs from the encoder by {difference:.2g}, at most {TOLERANCE} is allowed; not written"
        )
    with storage_guard(path):
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
    return difference


def _difference(content: bytes, x_BCHW: np.ndarray, encoder: Encoder) -> float:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    got_BD = np.asarray(session.run(None, {"images": x_BCHW})[0])
    wanted_BD = encoder.embed(x_BCHW)
    return float(np.abs(got_BD - wanted_BD).max() / max(float(np.abs(wanted_BD).max()), 1e-12))
