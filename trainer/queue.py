"""A first-in first-out queue of embeddings of earlier batches."""

import torch
from torch import nn
from torch.nn import functional


class Queue(nn.Module):
    """Holds the newest unit vectors; its state is saved with the method's.

    Args:
        size: vectors held, K.
        dimension: D.
    """

    x_KD: torch.Tensor
    place: torch.Tensor

    def __init__(self, *, size: int, dimension: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        filling = torch.randn(size, dimension, generator=generator)
        self.register_buffer("x_KD", functional.normalize(filling, dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, x_BD: torch.Tensor) -> None:
        """Puts vectors in the place of the oldest; of more than fit, the last are kept."""
        size = len(self.x_KD)
        x_BD = x_BD.detach()[-size:]
        rows_B = (int(self.place) + torch.arange(len(x_BD), device=x_BD.device)) % size
        self.x_KD[rows_B] = x_BD.to(self.x_KD.dtype)
        self.place.fill_((int(self.place) + len(x_BD)) % size)
