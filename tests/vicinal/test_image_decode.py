"""Every kind of image that people have is decoded, and what is not one is refused with the reason."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vicinal.errors import InvalidConfigError, InvalidImageError
from vicinal.modalities.image import Preprocessing, decode


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def scene(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    ramp = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3).astype(np.uint8)
    return Image.fromarray(ramp).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_decoded(mode, channels):
    kind = "PNG" if mode in {"1", "L", "P", "RGB"} else "JPEG"
    x_HWC = decode(encoded(scene(mode), kind), channels=channels)
    assert x_HWC.shape == (30, 40, channels)
    assert x_HWC.dtype == np.uint8


def test_sixteen_bit_gray_keeps_its_range():
    deep = np.linspace(0, 65535, 300).reshape(15, 20).astype(np.uint16)
    x_HWC = decode(encoded(Image.fromarray(deep)), channels=1)
    assert (int(x_HWC.min()), int(x_HWC.max())) == (0, 255)
    np.testing.assert_allclose(x_HWC[..., 0], deep / 257.0, atol=0.51)


def test_float_tiff_in_unit_range_is_scaled():
    ramp = np.linspace(0, 1, 300, dtype=np.float32).reshape(15, 20)
    x_HWC = decode(encoded(Image.fromarray(ramp), "TIFF"), channels=1)
    np.testing.assert_allclose(x_HWC[..., 0], ramp * 255, atol=0.51)


def test_wide_float_tiff_is_brought_into_range():
    ramp = np.linspace(-500, 9000, 300, dtype=np.float32).reshape(15, 20)
    x_HWC = decode(encoded(Image.fromarray(ramp), "TIFF"), channels=3)
    assert (int(x_HWC.min()), int(x_HWC.max())) == (0, 255)


def test_float_tiff_with_nan_is_refused():
    with pytest.raises(InvalidImageError, match="not finite"):
        decode(encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"))


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (decode(encoded(clear)) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0] * 256)
    assert (decode(encoded(palette, transparency=0)) == 255).all()


def test_exif_orientation_turns_the_image_upright():
    left_black = np.full((10, 20, 3), 255, np.uint8)
    left_black[:, :10] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    x_HWC = decode(encoded(Image.fromarray(left_black), exif=exif))
    assert x_HWC.shape == (20, 10, 3)
    assert x_HWC[0].max() == 0
    assert x_HWC[-1].min() == 255


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    x_HWC = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert tuple(x_HWC[0, 0]) == (255, 0, 0)


def test_raw_pgm_digits_are_decoded_exactly():
    digits = np.arange(28 * 28, dtype=np.uint64).reshape(28, 28).astype(np.uint8)
    np.testing.assert_array_equal(decode(b"P5 28 28 255\n" + digits.tobytes(), channels=1)[..., 0], digits)


def huge_png(side: int = 30_000) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [30_000, 8_000, 11_000])
def test_an_image_of_too_many_pixels_is_refused_before_decoding(side):
    with pytest.raises(InvalidImageError, match="at most 50000000"):
        decode(huge_png(side))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"this is a text file named .jpg", "not an image"),
        (encoded(scene("RGB", (400, 300)), "JPEG")[:3000], "truncated"),
        (encoded(scene())[:100], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_what_is_not_an_image_is_refused_with_the_reason(content, reason):
    with pytest.raises(InvalidImageError, match=reason):
        decode(content)


def test_too_many_bytes_are_refused():
    with pytest.raises(InvalidImageError, match="at most 10"):
        decode(encoded(scene()), max_bytes=10)


@given(st.data())
def test_damaged_files_never_raise_anything_else(data):
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]))
    content = bytearray(encoded(scene(), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidImageError):
        assert decode(bytes(content), max_pixels=100_000).dtype == np.uint8


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(40, 30), (30, 40), (17, 17), (300, 5)])
def test_preprocessing_gives_one_size(resize, size):
    x_CHW = Preprocessing(channels=3, height=16, width=16, resize=resize).to_image(encoded(scene(size=size)))
    assert x_CHW.shape == (3, 16, 16)
    assert x_CHW.flags.c_contiguous


def test_crop_takes_the_middle_and_pad_keeps_all():
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 255
    content = encoded(Image.fromarray(wide))
    assert Preprocessing(channels=3, height=16, width=16, resize="crop").to_image(content).mean() > 250
    padded = Preprocessing(channels=3, height=48, width=48, resize="pad").to_image(content)
    assert tuple(padded[:, 0, 0]) == (128, 128, 128)
    np.testing.assert_array_equal(padded[0, 16:32], wide[..., 0])


def test_a_large_jpeg_is_decoded_small_without_a_visible_difference():
    content = encoded(scene("RGB", (1600, 1200)), "JPEG", quality=95)
    quick = Preprocessing(channels=3, height=32, width=32).to_image(content)
    square = Image.fromarray(decode(content)).crop((200, 0, 1400, 1200))
    slow = np.asarray(square.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.abs(quick.astype(int) - slow.transpose(2, 0, 1)).max() <= 4


def test_normalize_is_exact_for_the_identity():
    import torch

    plain = Preprocessing(channels=1, height=4, width=4, mean=(0.0,), std=(1 / 255,))
    x_BCHW = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4) * 16
    assert torch.equal(plain.normalize(x_BCHW), x_BCHW.float())
    usual = Preprocessing(channels=1, height=4, width=4, mean=(0.25,), std=(0.5,))
    torch.testing.assert_close(usual.normalize(x_BCHW), (x_BCHW / 255.0 - 0.25) / 0.5)


@pytest.mark.parametrize("change", [{"channels": 2}, {"height": 0}, {"std": (0.0,)}, {"mean": (0.1, 0.2)}])
def test_impossible_preprocessing_is_refused(change):
    with pytest.raises(InvalidConfigError, match="impossible"):
        Preprocessing(**({"channels": 3, "height": 8, "width": 8} | change))
