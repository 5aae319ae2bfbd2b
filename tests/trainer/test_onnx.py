"""An encoder leaves as ONNX and computes the same there."""

import json

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from trainer import onnx as stage
from trainer.commands import export
from vicinal.encoder import Encoder, save
from vicinal.errors import FailedPreconditionError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create
from vicinal.store import Store
from vicinal.types import Metric


@pytest.fixture
def store(tmp_path):
    store = Store.create(tmp_path / "w")
    size = Preprocessing(channels=3, height=16, width=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    architecture = {"name": "resnet10-w8", "channels": 3, "image_size": 16}
    with store.stage("encoders") as staging:
        model = create("resnet10-w8", channels=3, image_size=16)
        metric = Metric.COSINE
        save(staging.path, model=model, architecture=architecture, preprocessing=size, metric=metric, metadata={})
        staging.commit()
    return store


@pytest.mark.slow
def test_the_onnx_file_computes_the_same_for_any_batch(store, tmp_path):
    path = tmp_path / "encoder.onnx"
    words = ["-w", str(store.root), "--encoder", "1", "--onnx", str(path), "--json"]
    done = CliRunner().invoke(export, words, catch_exceptions=False)
    assert json.loads(done.stdout)["difference"] < 1e-5
    encoder = Encoder.load(store.path("encoders", "1"))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x_BCHW = np.random.default_rng(1).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    np.testing.assert_allclose(session.run(None, {"images": x_BCHW})[0], encoder.embed(x_BCHW), atol=1e-5)
    np.testing.assert_allclose(session.run(None, {"images": x_BCHW[:1]})[0], encoder.embed(x_BCHW[:1]), atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["vicinal.fingerprint"] == encoder.fingerprint


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_not_written(store, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_difference", lambda *_: 0.5)
    with pytest.raises(FailedPreconditionError, match="differs"):
        stage.export_onnx(Encoder.load(store.path("encoders", "1")), tmp_path / "x.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_encoder_goes_with_onnx(store):
    assert CliRunner().invoke(export, ["-w", str(store.root), "--encoder", "1"]).exit_code == 2
