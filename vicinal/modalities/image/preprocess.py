"""Evaluation preprocessing: what is done to an image before an encoder sees it; travels with the weights."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from vicinal.errors import InvalidConfigError
from vicinal.modalities.image.decode import MAX_CONTENT_BYTES, MAX_PIXELS, open_image
from vicinal.types import U8Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Turns any image into a fixed-size tensor, always in the same way."""

    channels: int
    """1 for gray or 3 for RGB."""
    height: int
    """Height in pixels."""
    width: int
    """Width in pixels."""
    resize: Literal["crop", "squash", "pad"] = "crop"
    """How another aspect ratio is met: cut the longer side at both ends, squash it, or pad the shorter with gray."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from values in [0, 1]; one number for all channels or one for each."""
    std: tuple[float, ...] = (0.5,)
    """Divided by, after the mean; one number for all channels or one for each; above 0."""

    def __post_init__(self) -> None:
        """Refuses what cannot work."""
        wrong = (
            self.channels not in {1, 3}
            or min(self.height, self.width) < 1
            or {len(self.mean), len(self.std)} - {1, self.channels}
            or min(self.std, default=0.0) <= 0
        )
        if wrong:
            raise InvalidConfigError(f"preprocessing is impossible: {self}")

    def to_image(self, content: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_CONTENT_BYTES) -> U8Array:
        """Decodes an image and brings it to the fixed size.

        Args:
            content: the file, such as a JPEG.
            max_pixels: most pixels to accept, judged by the header.
            max_bytes: most bytes to accept.

        Returns:
            x_CHW, uint8, contiguous.

        Raises:
            InvalidImageError: not an image that can be decoded; says why.
        """
        # Twice the wanted side is decoded at least, so that the JPEG decoder's own reduction leaves no trace.
        image = open_image(
            content,
            channels=self.channels,
            max_pixels=max_pixels,
            max_bytes=max_bytes,
            enough=2 * max(self.height, self.width),
        )
        x_HWC = np.asarray(self._fit(image), dtype=np.uint8).reshape(self.height, self.width, self.channels)
        return np.ascontiguousarray(x_HWC.transpose(2, 0, 1))

    def normalize(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns float32 x_BCHW, normalised by mean and std, from uint8 in [0, 255] on the same device."""
        std = np.broadcast_to(np.asarray(self.std, dtype=np.float64), (self.channels,))
        mean = np.broadcast_to(np.asarray(self.mean, dtype=np.float64), (self.channels,))
        # One multiplication and one addition; exact for the identity, mean 0 and std 1/255.
        scale_C = torch.tensor(1.0 / (255.0 * std), dtype=torch.float32, device=x_BCHW.device)
        shift_C = torch.tensor(-mean / std, dtype=torch.float32, device=x_BCHW.device)
        return x_BCHW.float() * scale_C[:, None, None] + shift_C[:, None, None]

    def _fit(self, image: Image.Image) -> Image.Image:
        size = (self.width, self.height)
        if image.size == size:
            return image
        if self.resize == "squash":
            return image.resize(size, Image.Resampling.BICUBIC)
        ratios = (self.width / image.width, self.height / image.height)
        if self.resize == "crop":
            # The box is cut in source coordinates, so that one resampling does both.
            scale = max(ratios)
            box_width, box_height = self.width / scale, self.height / scale
            left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
            box = (
                max(left, 0.0),
                max(top, 0.0),
                min(left + box_width, image.width),
                min(top + box_height, image.height),
            )
            return image.resize(size, Image.Resampling.BICUBIC, box=box)
        inner = tuple(max(1, round(side * min(ratios))) for side in image.size)
        canvas = Image.new(image.mode, size, 128 if self.channels == 1 else (128, 128, 128))
        resized = image.resize((inner[0], inner[1]), Image.Resampling.BICUBIC)
        canvas.paste(resized, ((self.width - inner[0]) // 2, (self.height - inner[1]) // 2))
        return canvas
