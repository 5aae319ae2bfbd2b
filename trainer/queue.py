"""A first-in first-out queue of embeddings of earlier batches."""

import torch
from torch import nn
from torch.nn import functional


class Queue(nn.Module):
    """Holds the newest unit vectors and the images that they are of; its state is saved with the method's.

    Until it is full, the rest of it is random vectors, of no image.

    Args:
        size: vectors held, K.
        dimension: D.
    """

    x_KD: torch.Tensor
    rows_K: torch.Tensor
    """Row numbers of the images, -1 where there is none yet."""
    place: torch.Tensor

    def __init__(self, *, size: int, dimension: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        filling = torch.randn(size, dimension, generator=generator)
        self.register_buffer("x_KD", functional.normalize(filling, dim=1))
        self.register_buffer("rows_K", torch.full((size,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, x_BD: torch.Tensor, rows_B: torch.Tensor) -> None:
        """Puts vectors of images in the place of the oldest; of more than fit, the last are kept."""
        size = len(self.x_KD)
        x_BD, rows_B = x_BD.detach()[-size:], rows_B[-size:]
        places_B = (int(self.place) + torch.arange(len(x_BD), device=x_BD.device)) % size
        self.x_KD[places_B] = x_BD.to(self.x_KD.dtype)
        self.rows_K[places_B] = rows_B
        self.place.fill_((int(self.place) + len(x_BD)) % size)

    @torch.no_grad()
    def neighbors(self, x_BD: torch.Tensor, rows_B: torch.Tensor, *, count: int) -> torch.Tensor:
        """Returns the unit mean of the nearest vectors of other images, x_BD; zero where there is no other.

        Args:
            x_BD: unit vectors.
            rows_B: the images that they are of.
            count: vectors that are averaged; fewer where there are not as many.
        """
        same_BK = rows_B[:, None] == self.rows_K
        sim_BK = (x_BD.to(self.x_KD.dtype) @ self.x_KD.t()).masked_fill(same_BK, float("-inf"))
        nearest_BN = sim_BK.topk(min(count, len(self.x_KD)), dim=1).indices
        other_BN1 = ~same_BK.gather(1, nearest_BN)[:, :, None]
        return functional.normalize((self.x_KD[nearest_BN] * other_BN1).sum(dim=1), dim=1)
