"""Views of a batch of images: every augmentation as tensor arithmetic, with a draw for each sample.

Crop, flip, resize (with anti-aliasing) and blur along one axis are one matrix an image, so all
four are two small matrix products; brightness, contrast, saturation, hue and gray are one 3 x 3
matrix and a shift an image. Then the values are clamped to [0, 1], solarised and normalised.

Differs from torchvision's per-image transforms: crops have fractional corners; colour operations
are in fixed order with one clamp at the end; hue turns the colours about the gray axis in YIQ
instead of passing through HSV. tests/trainer/test_views.py holds each to torchvision statistically.
"""

import math

import torch

from trainer.config import ViewConfig
from trainer.method import Views

_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))
_TRIES = 10


class ViewMaker:
    """Draws views.

    Args:
        config: how.
        mean: subtracted from values in [0, 1]; one number, or one for each channel.
        std: divided by; one number, or one for each channel.
        layout: in which the views lie in memory.
    """

    def __init__(
        self,
        config: ViewConfig,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self.config = config
        self.mean = mean
        self.std = std
        self.layout = layout

    def __call__(
        self, x_BCHW: torch.Tensor, *, rows_B: torch.Tensor, size: int, generator: torch.Generator, plain: bool = False
    ) -> Views:
        """Returns views of a batch.

        Args:
            x_BCHW: images, uint8.
            rows_B: their row numbers, handed on.
            size: side of the full views in pixels.
            generator: of every draw, on the device of the images.
            plain: also hand on the images themselves, resized, in [0, 1].
        """
        config = self.config
        pixels_BCHW = x_BCHW.float().div_(255.0)
        local_size = max(8, round(size * config.local_ratio))
        full = tuple(
            self._view(pixels_BCHW, size, number, config.crop_scale, generator) for number in range(config.count)
        )
        local = tuple(
            self._view(pixels_BCHW, local_size, config.count + number, config.local_scale, generator)
            for number in range(config.local_count)
        )
        whole = resize(pixels_BCHW, size) if plain else None
        return Views(full=full, local=local, plain_BCHW=whole, rows_B=rows_B, generator=generator)

    def _view(
        self,
        x_BCHW: torch.Tensor,
        size: int,
        number: int,
        scale: tuple[float, float],
        generator: torch.Generator,
    ) -> torch.Tensor:
        config = self.config
        draw = _Draw(len(x_BCHW), generator)
        boxes_B4 = crop_boxes(draw, x_BCHW.shape[2], x_BCHW.shape[3], scale=scale, ratio=config.crop_ratio)
        rows_BSH = resample_matrix(boxes_B4[:, 0], boxes_B4[:, 2], x_BCHW.shape[2], size)
        columns_BSW = resample_matrix(boxes_B4[:, 1], boxes_B4[:, 3], x_BCHW.shape[3], size)
        rows_BSH = flip_rows(rows_BSH, draw.chance(config.vertical_flip))
        columns_BSW = flip_rows(columns_BSW, draw.chance(config.flip))
        if (chance := _of_view(config.blur, number)) > 0:
            blur_BSS = blur_matrix(draw, size, chance=chance, sigma=config.blur_sigma)
            rows_BSH, columns_BSW = blur_BSS @ rows_BSH, blur_BSS @ columns_BSW
        y_BCSS = rows_BSH[:, None] @ x_BCHW @ columns_BSW.transpose(1, 2)[:, None]
        y_BCSS = jitter(y_BCSS, draw, config).clamp_(0.0, 1.0)
        if (chance := _of_view(config.solarize, number)) > 0:
            chosen_B = draw.chance(chance)[:, None, None, None]
            y_BCSS = torch.where(chosen_B & (y_BCSS >= 0.5), 1.0 - y_BCSS, y_BCSS)
        return self.normalize(y_BCSS)

    def normalize(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns values in [0, 1] normalised, in the layout of the views."""
        scale_C = torch.tensor([1.0 / s for s in self.std], device=x_BCHW.device)
        shift_C = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=x_BCHW.device)
        y_BCHW = torch.addcmul(shift_C[:, None, None], x_BCHW, scale_C[:, None, None])
        return y_BCHW.contiguous(memory_format=self.layout)


class _Draw:
    """Random numbers for a batch."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def uniform(self, low: float, high: float, columns: int | None = None) -> torch.Tensor:
        shape = (self.count,) if columns is None else (self.count, columns)
        x = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return x.mul_(high - low).add_(low)

    def chance(self, probability: float) -> torch.Tensor:
        return self.uniform(0.0, 1.0) < probability


def _of_view(values: tuple[float, ...], number: int) -> float:
    return values[min(number, len(values) - 1)]


def crop_boxes(
    draw: _Draw, height: int, width: int, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> torch.Tensor:
    """Draws crops as torchvision's RandomResizedCrop does, with fractional corners.

    Args:
        draw: random numbers.
        height: of the images in pixels.
        width: of the images in pixels.
        scale: range of the area, as a fraction of the image.
        ratio: range of width over height.

    Returns:
        Boxes (top, left, height, width) in pixels, float32, inside the image.
    """
    area_BT = draw.uniform(*scale, columns=_TRIES) * (height * width)
    ratio_BT = draw.uniform(math.log(ratio[0]), math.log(ratio[1]), columns=_TRIES).exp()
    w_BT, h_BT = (area_BT * ratio_BT).sqrt(), (area_BT / ratio_BT).sqrt()
    fits_BT = (w_BT <= width) & (h_BT <= height)
    first_B1 = fits_BT.float().argmax(dim=1, keepdim=True)
    # None of ten fits (a long image): the largest box of a ratio in range, as torchvision's fall-back.
    clamped = min(max(width / height, ratio[0]), ratio[1])
    spare_h, spare_w = min(height, width / clamped), min(width, height * clamped)
    any_B = fits_BT.any(dim=1)
    h_B = torch.where(any_B, h_BT.gather(1, first_B1)[:, 0], spare_h)
    w_B = torch.where(any_B, w_BT.gather(1, first_B1)[:, 0], spare_w)
    top_B = draw.uniform(0.0, 1.0) * (height - h_B)
    left_B = draw.uniform(0.0, 1.0) * (width - w_B)
    return torch.stack([top_B, left_B, h_B, w_B], dim=1)


def resample_matrix(start_B: torch.Tensor, length_B: torch.Tensor, size_in: int, size_out: int) -> torch.Tensor:
    """Returns matrices that cut [start, start + length) out of an axis and resize it, with anti-aliasing.

    The triangle filter is as wide as an output pixel, at least as an input pixel; weights add up to 1.

    Args:
        start_B: where the cut begins, in input pixels.
        length_B: how long it is.
        size_in: length of the axis, in pixels.
        size_out: length after the resize.

    Returns:
        m_BOI, float32.
    """
    step_B1 = (length_B / size_out)[:, None]
    centers_O = torch.arange(size_out, device=start_B.device) + 0.5
    centers_BO1 = (start_B[:, None] + step_B1 * centers_O)[:, :, None]
    inputs_I = torch.arange(size_in, device=start_B.device) + 0.5
    support_B11 = step_B1.clamp(min=1.0)[:, :, None]
    m_BOI = (inputs_I - centers_BO1).abs_().div_(support_B11).neg_().add_(1.0).clamp_(min=0.0)
    return m_BOI.div_(m_BOI.sum(dim=2, keepdim=True))


def flip_rows(m_BOI: torch.Tensor, chosen_B: torch.Tensor) -> torch.Tensor:
    """Returns the matrices with the order of their outputs turned round where chosen."""
    return torch.where(chosen_B[:, None, None], m_BOI.flip(1), m_BOI)


def blur_matrix(draw: _Draw, size: int, *, chance: float, sigma: tuple[float, float]) -> torch.Tensor:
    """Returns matrices b_BOO of a Gaussian blur along one axis, the identity where it is not drawn."""
    sigma_B = draw.uniform(*sigma) * (size / 224.0)
    sigma_B = torch.where(draw.chance(chance), sigma_B, 1e-3).clamp(min=1e-3)
    places_O = torch.arange(size, device=sigma_B.device, dtype=torch.float32)
    distance_OO = places_O[:, None] - places_O
    b_BOO = (-0.5 * (distance_OO / sigma_B[:, None, None]).square()).exp_()
    return b_BOO / b_BOO.sum(dim=2, keepdim=True)


def resize(x_BCHW: torch.Tensor, size: int) -> torch.Tensor:
    """Returns the whole images at another size, with the views' own filter."""
    if x_BCHW.shape[2:] == (size, size):
        return x_BCHW
    zero_1 = torch.zeros(1, device=x_BCHW.device)
    rows_1SH = resample_matrix(zero_1, zero_1 + x_BCHW.shape[2], x_BCHW.shape[2], size)
    columns_1SW = resample_matrix(zero_1, zero_1 + x_BCHW.shape[3], x_BCHW.shape[3], size)
    return rows_1SH @ x_BCHW @ columns_1SW.transpose(1, 2)


def jitter(x_BCHW: torch.Tensor, draw: _Draw, config: ViewConfig) -> torch.Tensor:
    """Returns the images with brightness, contrast, saturation, hue and gray drawn for each; not clamped."""
    chosen_B = draw.chance(config.jitter)
    bright_B = torch.where(chosen_B, draw.uniform(max(0.0, 1 - config.brightness), 1 + config.brightness), 1.0)
    contrast_B = torch.where(chosen_B, draw.uniform(max(0.0, 1 - config.contrast), 1 + config.contrast), 1.0)
    gain_B111 = (bright_B * contrast_B)[:, None, None, None]
    if x_BCHW.shape[1] == 1:
        mean_B111 = x_BCHW.mean(dim=(2, 3), keepdim=True)
        shift_B111 = mean_B111 * (bright_B * (1 - contrast_B))[:, None, None, None]
        return torch.addcmul(shift_B111, x_BCHW, gain_B111)
    luma_C = torch.tensor(_LUMA, device=x_BCHW.device)
    # Contrast pulls towards the mean gray of the brightened image; the later operations keep gray as it is.
    mean_B = x_BCHW.mean(dim=(2, 3)) @ luma_C
    shift_B = mean_B * bright_B * (1 - contrast_B)
    m_BCC = color_matrix(draw, chosen_B, config) * gain_B111[:, :, :, 0]
    y_BCP = torch.baddbmm(shift_B[:, None, None], m_BCC, x_BCHW.flatten(2))
    return y_BCP.view(x_BCHW.shape)


def color_matrix(draw: _Draw, chosen_B: torch.Tensor, config: ViewConfig) -> torch.Tensor:
    """Returns matrices m_BCC of saturation, hue and gray; each keeps gray values as they are."""
    device = chosen_B.device
    luma_CC = torch.tensor(_LUMA, device=device).expand(3, 3)
    saturation_B = torch.where(chosen_B, draw.uniform(max(0.0, 1 - config.saturation), 1 + config.saturation), 1.0)
    angle_B = torch.where(chosen_B, draw.uniform(-config.hue, config.hue), 0.0) * (2 * math.pi)
    gray_B = draw.chance(config.gray)
    # Gray is saturation zero.
    s_B11 = torch.where(gray_B, 0.0, saturation_B)[:, None, None]
    saturate_BCC = s_B11 * torch.eye(3, device=device) + (1 - s_B11) * luma_CC
    to_yiq = torch.tensor(_TO_YIQ, device=device)
    cos_B, sin_B, zero_B, one_B = angle_B.cos(), angle_B.sin(), torch.zeros_like(angle_B), torch.ones_like(angle_B)
    turn_B33 = torch.stack([one_B, zero_B, zero_B, zero_B, cos_B, -sin_B, zero_B, sin_B, cos_B], dim=1).view(-1, 3, 3)
    hue_BCC: torch.Tensor = torch.linalg.inv(to_yiq) @ turn_B33 @ to_yiq
    return hue_BCC @ saturate_BCC
