"""Batched views: each operation does to many images what torchvision's does, statistically."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from trainer import views as ours
from trainer.config import ViewConfig

NONE = ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter=0.0, gray=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(count, seed=0):
    return ours._Draw(count, generator(seed))


def photographs(count=64, side=32, channels=3, seed=0):
    """Smooth random images: what a photograph's spectrum is like."""
    coarse = torch.rand(count, channels, 6, 6, generator=generator(seed))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def make(x_BCHW, *, size=None, seed=0, mean=(0.0,), std=(1.0,), **changes):
    maker = ours.ViewMaker(replace(NONE, **changes), mean=mean, std=std)
    rows_B = torch.arange(len(x_BCHW))
    return maker(x_BCHW, rows_B=rows_B, size=size or x_BCHW.shape[-1], generator=generator(seed))


def test_without_augmentation_a_view_is_the_image():
    x_BCHW = photographs(8)
    first, second = make(x_BCHW).full
    torch.testing.assert_close(first, x_BCHW / 255.0, atol=1e-5, rtol=0)
    torch.testing.assert_close(first, second)


def test_the_same_seed_gives_the_same_views():
    x_BCHW = photographs(8)
    again = [make(x_BCHW, seed=5, crop_scale=(0.2, 1.0), jitter=1.0, flip=0.5) for _ in range(2)]
    assert torch.equal(again[0].full[0], again[1].full[0])
    assert not torch.equal(again[0].full[0], again[0].full[1])
    assert not torch.equal(again[0].full[0], make(x_BCHW, seed=6, crop_scale=(0.2, 1.0)).full[0])


def test_views_are_normalised_and_channels_last():
    x_BCHW = photographs(8)
    view = make(x_BCHW, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)).full[0]
    wanted = tv.normalize(x_BCHW / 255.0, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    torch.testing.assert_close(view, wanted, atol=1e-5, rtol=0)
    assert view.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(32, 32), (28, 60), (100, 20)])
def test_crop_boxes_are_distributed_as_torchvisions(shape):
    scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
    boxes = ours.crop_boxes(draw(4000), *shape, scale=scale, ratio=ratio).numpy()
    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(8, scale=scale, ratio=ratio), torch.zeros(1, *shape)
    drawn = [crop.make_params([image]) for _ in range(3000)]
    theirs = np.array([[one["top"], one["left"], one["height"], one["width"]] for one in drawn])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= shape[0] + 1e-4).all()
    assert (boxes[:, 1] + boxes[:, 3] <= shape[1] + 1e-4).all()
    np.testing.assert_allclose(boxes.mean(axis=0), theirs.mean(axis=0), atol=0.02 * max(shape))
    # Where no box fits, torchvision takes the middle and we any place.
    columns = slice(None) if shape != (100, 20) else slice(1, None)
    np.testing.assert_allclose(boxes.std(axis=0)[columns], theirs.std(axis=0)[columns], atol=0.6)


def test_a_cut_and_resize_is_torchvisions_resized_crop():
    x_BCHW = photographs(4, side=48).float() / 255
    box = (5, 9, 30, 24)
    rows = ours.resample_matrix(torch.tensor([5.0]), torch.tensor([30.0]), 48, 16)
    columns = ours.resample_matrix(torch.tensor([9.0]), torch.tensor([24.0]), 48, 16)
    mine = rows @ x_BCHW @ columns.transpose(1, 2)
    theirs = tv.resized_crop(x_BCHW, *box, [16, 16], antialias=True)
    # At the border of the box ours sees the pixels outside it, torchvision does not.
    torch.testing.assert_close(mine[:, :, 1:-1, 1:-1], theirs[:, :, 1:-1, 1:-1], atol=1e-3, rtol=0)


def test_resize_is_torchvisions_antialiased_resize():
    x_BCHW = photographs(4, side=48).float() / 255
    for size in (20, 48, 64):
        torch.testing.assert_close(
            ours.resize(x_BCHW, size), tv.resize(x_BCHW, [size, size], antialias=True), atol=1e-5, rtol=0
        )


def test_flips_are_exact_and_as_frequent_as_asked():
    x_BCHW = photographs(400, side=8)
    view = make(x_BCHW, flip=0.3).full[0]
    kept = torch.isclose(view, x_BCHW / 255.0, atol=1e-5).flatten(1).all(1)
    turned = torch.isclose(view, x_BCHW.flip(3) / 255.0, atol=1e-5).flatten(1).all(1)
    assert (kept | turned).all()
    assert 0.22 < turned.float().mean() < 0.38
    upside = make(x_BCHW, vertical_flip=1.0).full[0]
    torch.testing.assert_close(upside, x_BCHW.flip(2) / 255.0, atol=1e-5, rtol=0)


def statistics(change):
    return {"mean": float(change.mean()), "spread": float(change.std()), "size": float(change.abs().mean())}


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"brightness": 0.4}, {"brightness": 0.4}),
        ({"contrast": 0.4}, {"contrast": 0.4}),
        ({"saturation": 0.4}, {"saturation": 0.4}),
        ({"hue": 0.1}, {"hue": 0.1}),
    ],
)
def test_each_colour_operation_changes_images_as_torchvisions(mine, theirs):
    x_BCHW = photographs(600, side=8)
    plain = x_BCHW / 255.0
    only = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | mine
    changed = make(x_BCHW, jitter=1.0, **only).full[0]
    torch.manual_seed(0)
    jitter = v2.ColorJitter(**theirs)
    reference = torch.stack([jitter(image) for image in plain])
    ours_says, theirs_says = statistics(changed - plain), statistics(reference - plain)
    for name, value in theirs_says.items():
        assert ours_says[name] == pytest.approx(value, rel=0.25, abs=0.006), name
    moved = [(image - plain).abs().mean(dim=(1, 2, 3)).std() for image in (changed, reference)]
    assert float(moved[0]) == pytest.approx(float(moved[1]), rel=0.25)


def test_gray_is_torchvisions_and_as_frequent_as_asked():
    x_BCHW = photographs(400, side=8)
    view = make(x_BCHW, gray=0.25).full[0]
    wanted = tv.rgb_to_grayscale(x_BCHW / 255.0, num_output_channels=3)
    is_gray = torch.isclose(view, wanted, atol=2e-3).flatten(1).all(1)
    assert 0.18 < is_gray.float().mean() < 0.33
    torch.testing.assert_close(view[~is_gray], x_BCHW[~is_gray] / 255.0, atol=1e-4, rtol=0)


def test_hue_keeps_gray_pixels():
    gray = torch.full((50, 3, 4, 4), 128, dtype=torch.uint8)
    torch.testing.assert_close(
        make(gray, jitter=1.0, hue=0.5, brightness=0, contrast=0).full[0], gray / 255.0, atol=1e-3, rtol=0
    )


def test_gray_images_get_brightness_and_contrast():
    x_BCHW = photographs(4000, side=8, channels=1)
    view = make(x_BCHW, jitter=1.0).full[0]
    reference = torch.stack([v2.ColorJitter(0.4, 0.4)(image) for image in (x_BCHW / 255.0).expand(-1, 3, -1, -1)])[
        :, :1
    ]
    for name, value in statistics(reference - x_BCHW / 255.0).items():
        assert statistics(view - x_BCHW / 255.0)[name] == pytest.approx(value, rel=0.2, abs=0.008), name


def test_blur_is_torchvisions_inside_the_image():
    x_BCHW = photographs(4, side=32, seed=3).float() / 255
    sigma = 1.3
    blur = ours.blur_matrix(draw(4), 32, chance=1.0, sigma=(sigma * 7, sigma * 7))
    mine = blur[:, None] @ x_BCHW @ blur.transpose(1, 2)[:, None]
    theirs = tv.gaussian_blur(x_BCHW, kernel_size=[13, 13], sigma=[sigma, sigma])
    torch.testing.assert_close(mine[:, :, 7:-7, 7:-7], theirs[:, :, 7:-7, 7:-7], atol=2e-3, rtol=0)


def test_blur_and_solarisation_can_differ_between_views():
    x_BCHW = photographs(100, side=16)
    first, second = make(x_BCHW, blur=(1.0, 0.0), blur_sigma=(20.0, 20.0), solarize=(0.0, 1.0)).full
    assert first.std() < (x_BCHW / 255.0).std()
    torch.testing.assert_close(second, tv.solarize(x_BCHW / 255.0, 0.5), atol=1e-5, rtol=0)


def test_multi_crop_gives_smaller_views_of_smaller_parts():
    x_BCHW = photographs(200, side=32)
    views = make(x_BCHW, size=24, local_count=4, local_ratio=0.5, local_scale=(0.05, 0.1))
    assert [tuple(view.shape) for view in views.local] == [(200, 3, 12, 12)] * 4
    assert [tuple(view.shape) for view in views.full] == [(200, 3, 24, 24)] * 2
    # A part of a smooth image varies less than the whole.
    assert views.local[0].std(dim=(2, 3)).mean() < 0.85 * views.full[0].std(dim=(2, 3)).mean()


def test_values_stay_in_range():
    x_BCHW = photographs(200, side=8)
    view = make(x_BCHW, jitter=1.0, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5).full[0]
    assert float(view.min()) >= 0.0
    assert float(view.max()) <= 1.0
    assert math.isfinite(float(view.sum()))
