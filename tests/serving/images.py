"""Images made in memory."""

import io

import numpy as np
from PIL import Image


def make_png(seed: int, *, size: tuple[int, int] = (24, 20), form: str = "PNG") -> bytes:
    """Returns an encoded image that looks the same for the same seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(stream, format=form)
    return stream.getvalue()


def huge_png_header() -> bytes:
    """Returns the start of a PNG that says it is 30,000 x 30,000."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data = zlib.compress(b"\0" * 100)
    idat = b"IDAT" + data
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(data)) + idat + struct.pack(">I", zlib.crc32(idat))
