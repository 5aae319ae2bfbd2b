"""What ``auto`` means: the encoder that suits the images, the machine and the budget, and why."""

import torch

from trainer.config import BudgetConfig

_SHORT_MINUTES, _LONG_MINUTES = 20.0, 30.0


def encoder_for(*, image_size: int, device: torch.device, budget: BudgetConfig) -> tuple[str, str]:
    """Chooses a backbone.

    Args:
        image_size: side of the images in pixels.
        device: where it will be trained.
        budget: how long.

    Returns:
        Its name, and the reason as a phrase.
    """
    if device.type == "cuda":
        if image_size <= 64:
            return "resnet18-w64-s1", "a GPU and small images: full resolution in the stem"
        return "resnet50", "a GPU and photographs"
    if budget.minutes is not None and budget.minutes > _SHORT_MINUTES:
        return "resnet18-w32-grid", "a CPU and time enough for two blocks a stage"
    return "resnet10-w32-grid", "a CPU and a short budget: many views count more than depth"


def largest_side(device: torch.device, budget: BudgetConfig) -> tuple[int, str]:
    """Chooses the side of the images above which photographs are made smaller, for training from scratch.

    Args:
        device: where it will be trained.
        budget: how long.

    Returns:
        The side in pixels, and the reason as a phrase.
    """
    if device.type == "cuda":
        return 224, "the usual side of photographs on a GPU"
    if budget.minutes is not None and budget.minutes > _LONG_MINUTES:
        return 96, "as a CPU has time for that in this budget"
    return 64, "as a CPU shows the network many more views of that side"
