"""The encoder artifact: what is saved is what runs, and damage is named."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from vicinal.encoder import Encoder, resolve_device, save
from vicinal.errors import ArtifactNotFoundError, CorruptArtifactError, InvalidArgumentError, InvalidImageError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create, names
from vicinal.modalities.image.convolution import Conv2d
from vicinal.types import Metric

SMALL = {"name": "resnet10-w8", "channels": 3, "image_size": 16}


def write(path, *, architecture=None, metric=Metric.COSINE, seed=0, mean=(0.5,)):
    torch.manual_seed(seed)
    architecture = architecture or SMALL
    options = {key: value for key, value in architecture.items() if key != "name"}
    size = architecture["image_size"]
    return save(
        path,
        model=create(architecture["name"], **options),
        architecture=architecture,
        preprocessing=Preprocessing(channels=architecture["channels"], height=size, width=size, mean=mean),
        metric=metric,
        metadata={"note": "test"},
    )


def images(count=5, seed=0, shape=(3, 16, 16)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def png(x_CHW):
    stream = io.BytesIO()
    Image.fromarray(x_CHW.transpose(1, 2, 0)).save(stream, "PNG")
    return stream.getvalue()


def test_what_is_saved_is_loaded(tmp_path):
    fingerprint = write(tmp_path / "e")
    encoder = Encoder.load(tmp_path / "e")
    assert encoder.fingerprint == fingerprint
    assert (encoder.dimension, encoder.metric) == (64, Metric.COSINE)
    assert encoder.architecture == SMALL
    assert encoder.manifest.body["metadata"] == {"note": "test"}
    x_BD = encoder.embed(images())
    assert x_BD.shape == (5, 64)
    assert x_BD.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(x_BD, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(Encoder.load(tmp_path / "e").embed(images()), x_BD)


def test_the_fingerprint_depends_on_all_that_matters(tmp_path):
    seen = {
        write(tmp_path / "a"),
        write(tmp_path / "b", seed=1),
        write(tmp_path / "c", metric=Metric.L2),
        write(tmp_path / "d", mean=(0.4,)),
    }
    assert len(seen) == 4
    assert write(tmp_path / "again") in seen


def test_an_embedding_does_not_depend_on_its_batch(tmp_path):
    write(tmp_path / "e")
    encoder = Encoder.load(tmp_path / "e")
    x_BCHW = images(300)
    together = encoder.embed(x_BCHW)
    for row in (0, 255, 256, 299):
        np.testing.assert_allclose(encoder.embed(x_BCHW[row : row + 1])[0], together[row], atol=2e-6)


def test_pixels_are_handed_through(tmp_path):
    plain = Preprocessing(channels=1, height=4, width=4, mean=(0.0,), std=(1 / 255,))
    architecture = {"name": "pixels", "channels": 1, "image_size": 4}
    save(
        tmp_path / "e",
        model=create("pixels", channels=1, image_size=4),
        architecture=architecture,
        preprocessing=plain,
        metric=Metric.L2,
        metadata={},
    )
    x_BCHW = images(3, shape=(1, 4, 4))
    np.testing.assert_array_equal(Encoder.load(tmp_path / "e").embed(x_BCHW), x_BCHW.reshape(3, -1))


def test_one_bad_image_does_not_disturb_the_others(tmp_path):
    write(tmp_path / "e")
    encoder = Encoder.load(tmp_path / "e")
    x_BCHW = images(2)
    x_BD, errors = encoder.embed_contents([png(x_BCHW[0]), b"no image", png(x_BCHW[1])])
    assert [type(error) for error in errors] == [type(None), InvalidImageError, type(None)]
    np.testing.assert_allclose(x_BD[[0, 2]], encoder.embed(x_BCHW), atol=2e-6)
    assert not x_BD[1].any()
    assert encoder.embed_contents([])[0].shape == (0, 64)
    assert encoder.embed_contents([b""])[1][0] is not None


@pytest.mark.parametrize("wrong", [images(shape=(1, 16, 16)), images().astype(np.float32), images()[0]])
def test_another_shape_is_refused(tmp_path, wrong):
    write(tmp_path / "e")
    with pytest.raises(InvalidImageError, match="wanted uint8"):
        Encoder.load(tmp_path / "e").embed(wrong)


def test_a_flipped_byte_is_found(tmp_path):
    write(tmp_path / "e")
    weights = tmp_path / "e" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(CorruptArtifactError, match=r"weights\.safetensors has changed"):
        Encoder.load(tmp_path / "e")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 64}, "fingerprint"),
        ({"architecture": {"name": "resnet10-w16", "channels": 3, "image_size": 16}}, "cannot be loaded"),
        ({"architecture": {"name": "resnet99", "channels": 3, "image_size": 16}}, "unknown"),
        ({"metric": "hamming"}, "cannot be loaded"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, change, message):
    write(tmp_path / "e")
    path = tmp_path / "e" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["body"] |= change
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifactError, match=message):
        Encoder.load(tmp_path / "e")


def test_a_missing_encoder_is_said(tmp_path):
    with pytest.raises(ArtifactNotFoundError, match="no encoder at"):
        Encoder.load(tmp_path)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cud"])
def test_a_device_that_is_not_there_is_an_error(device):
    with pytest.raises(InvalidArgumentError, match="device"):
        resolve_device(device)


@pytest.mark.parametrize(
    "name", [name for name in names() if not name.startswith(("convnext_s", "vit_b_32", "resnet34"))]
)
def test_every_backbone_knows_its_dimension(name):
    model = create(name, channels=1, image_size=32).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 1, 32, 32)).shape == (2, model.dimension)


@pytest.mark.parametrize(
    ("name", "message"),
    [("resnet81", "did you mean 'resnet18'"), ("resnet18-w20", "multiple of 8"), ("vit_b_16", "multiple of 16")],
)
def test_a_wrong_backbone_is_an_error(name, message):
    with pytest.raises(InvalidArgumentError, match=message):
        create(name, image_size=30)


def test_whitening_filters_decorrelate_patches_and_are_not_trained():
    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(200, 3, 12, 12, generator=generator).cumsum(dim=2).cumsum(dim=3) / 5
    model = create("resnet10-w8-white", image_size=12)
    assert model.whitens
    assert not create("resnet10-w8").whitens
    model.whiten(x_BCHW)
    y_BCHW = torch.nn.functional.conv2d(x_BCHW, model.state_dict()["body.whitening.weight"])
    y_PD = y_BCHW.transpose(0, 1).flatten(1).t()
    first_PD = y_PD[:, :27] - y_PD[:, :27].mean(dim=0)
    covariance_DD = first_PD.t() @ first_PD / len(first_PD)
    assert float((covariance_DD - covariance_DD.diag().diag()).abs().max()) < 0.02
    assert float(covariance_DD.diagonal().max()) == pytest.approx(1.0, abs=0.02)
    torch.testing.assert_close(y_PD[:, 27:], -y_PD[:, :27])
    assert not any(name.startswith("body.whitening") for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("shape", "way", "way_in_float32"),
    [
        ((3, 1, 1, 4), "Gathered", "Convolution"),
        ((3, 2, 1, 7), "Gathered", "Convolution"),
        ((1, 2, 0, 8), "Gathered", "Convolution"),
        ((1, 1, 0, 2), "Gathered", "Gathered"),
        ((3, 1, 1, 2), "Spread", "Spread"),
        ((3, 1, 1, 3), "Spread", "Convolution"),
        ((3, 2, 1, 3), "Spread", "Gathered"),
        ((3, 2, 1, 4), "Spread", "Gathered"),
        ((5, 1, 2, 2), "Spread", "Spread"),
        ((2, 1, 0, 3), "Spread", "Gathered"),
    ],
)
@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("most_rows", [8, 1 << 20])
def test_the_quick_ways_are_the_convolution(shape, way, way_in_float32, bfloat16, most_rows, monkeypatch):
    kernel, stride, padding, side = shape
    monkeypatch.setattr("vicinal.modalities.image.convolution._MOST_ROWS", most_rows)
    torch.manual_seed(0)
    ours = Conv2d(8, 16, kernel, stride=stride, padding=padding)
    plain = torch.nn.Conv2d(8, 16, kernel, stride=stride, padding=padding, bias=False)
    plain.load_state_dict(ours.state_dict())
    x_BCHW = torch.randn(4, 8, side, side).contiguous(memory_format=torch.channels_last)
    inputs = [x_BCHW.clone().requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        quick = ours(inputs[0])
    assert (way if bfloat16 else way_in_float32) in type(quick.grad_fn).__name__
    assert quick.is_contiguous(memory_format=torch.channels_last)
    exact = plain(inputs[1])
    weights = torch.randn_like(exact)
    quick.float().backward(weights)
    exact.backward(weights)
    rtol, atol = (0.02, 0.05) if bfloat16 else (1e-4, 1e-5)
    torch.testing.assert_close(quick.float(), exact, rtol=rtol, atol=atol)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=rtol, atol=atol)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=rtol, atol=5 * atol)
