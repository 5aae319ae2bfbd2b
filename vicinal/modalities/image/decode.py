"""Bytes to pixels: every kind of image that people have, and a clear reason for what is not one.

The header is read and judged before a pixel is decoded. The formats that run other programs
(EPS) or are documents are not opened at all.
"""

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from vicinal.errors import InvalidImageError
from vicinal.types import U8Array

MAX_PIXELS = 50_000_000
"""Images with more pixels are refused by default."""
MAX_CONTENT_BYTES = 64 << 20
"""Files with more bytes are refused by default."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000", "TGA", "ICO")
"""The formats of Pillow that are opened, where this build of Pillow has them; JPEG includes MPO."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GRAY, _COLOR = 1, 3


def decode(
    content: bytes, *, channels: int = 3, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_CONTENT_BYTES
) -> U8Array:
    """Decodes the first frame of an image, upright, on white where it was transparent.

    Args:
        content: the file, such as a JPEG; also raw PGM.
        channels: 1 for gray or 3 for RGB.
        max_pixels: most pixels to accept, judged by the header.
        max_bytes: most bytes to accept.

    Returns:
        x_HWC, uint8, C as asked, H and W as in the file after its EXIF orientation.

    Raises:
        InvalidImageError: empty, not an image, too large, truncated or damaged; says which.
    """
    image = open_image(content, channels=channels, max_pixels=max_pixels, max_bytes=max_bytes)
    x_HWC = np.asarray(image, dtype=np.uint8)
    return x_HWC[:, :, None] if x_HWC.ndim == 2 else x_HWC


def open_image(
    content: bytes,
    *,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_CONTENT_BYTES,
    enough: int | None = None,
) -> Image.Image:
    """Decodes as ``decode`` does, to a Pillow image of mode L or RGB.

    Args:
        content: the file.
        channels: 1 for gray or 3 for RGB.
        max_pixels: most pixels to accept, judged by the header.
        max_bytes: most bytes to accept.
        enough: shorter side in pixels that the caller needs; a JPEG may then be decoded at 1/2, 1/4 or 1/8 of its
            size, but never below this.

    Raises:
        InvalidImageError: empty, not an image, too large, truncated or damaged; says which.
    """
    assert channels in {_GRAY, _COLOR}, channels
    if not content:
        raise InvalidImageError("the image is empty (0 bytes)")
    if len(content) > max_bytes:
        raise InvalidImageError(f"the image has {len(content)} bytes, at most {max_bytes} are accepted")
    image = _guarded(lambda: Image.open(io.BytesIO(content), formats=_formats()), max_pixels=max_pixels)
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidImageError(
            f"the image is {width} x {height} = {width * height} pixels, at most {max_pixels} are accepted"
        )
    return _guarded(lambda: _finish(image, channels=channels, enough=enough), max_pixels=max_pixels)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _guarded(step: Callable[[], Image.Image], *, max_pixels: int) -> Image.Image:
    try:
        return step()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(f"the image is too large, at most {max_pixels} pixels are accepted: {error}") from error
    except UnidentifiedImageError as error:
        raise InvalidImageError("the content is not an image of a known format (JPEG, PNG, WebP, ...)") from error
    except Exception as error:  # decoders raise anything on damaged input: OSError, SyntaxError, struct.error, ...
        raise InvalidImageError(
            f"the image is truncated or damaged: {str(error)[:200] or type(error).__name__}"
        ) from error


def _finish(image: Image.Image, *, channels: int, enough: int | None) -> Image.Image:
    if enough is not None and image.format in {"JPEG", "MPO"}:
        scale = min(image.size) / max(enough, 1)
        if scale > 1:
            image.draft(None, (int(image.width / scale), int(image.height / scale)))
    image.load()
    transpose = _TRANSPOSE.get(_orientation(image))
    converted = _to_mode(image, "L" if channels == _GRAY else "RGB")
    return converted if transpose is None else converted.transpose(transpose)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001  a broken EXIF block says nothing about the pixels
        return 1


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        image = _deep_to_gray(image)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, rgba)
    elif image.mode not in {"1", "L", "RGB"}:
        image = image.convert("RGB")
    return image.convert(mode)


def _deep_to_gray(image: Image.Image) -> Image.Image:
    x_HW = np.asarray(image).astype(np.float64)
    if not np.isfinite(x_HW).all():
        raise ValueError("pixels that are not finite")
    low, high = float(x_HW.min()), float(x_HW.max())
    if image.mode.startswith("I;16") or (image.mode == "I" and low >= 0 and 255 < high < 65536):
        x_HW = x_HW / 257.0
    elif image.mode == "F" and low >= 0.0 and high <= 1.0:
        x_HW = x_HW * 255.0
    elif low < 0.0 or high > 255.0:
        x_HW = (x_HW - low) * (255.0 / max(high - low, 1e-30))
    return Image.fromarray(np.rint(x_HW).astype(np.uint8))
