"""Health of embeddings without labels: spread, rank, alignment and uniformity."""

from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How embeddings lie on the unit sphere."""

    std: float
    """Mean standard deviation of a dimension times the root of D: 1 when spread evenly, 0 when collapsed."""
    rank: float
    """Effective rank: the exponential of the entropy of the spectrum (Roy and Vetterli, 2007)."""
    alignment: float
    """Mean squared distance of two views of an image (arXiv:2005.10242); 0 when the same."""
    uniformity: float
    """Log of the mean Gaussian potential of pairs (arXiv:2005.10242); 0 when collapsed, about -3.9 at best."""


def measure(first_BD: torch.Tensor, second_BD: torch.Tensor, *, most: int = 512) -> Health:
    """Measures two views' embeddings.

    Args:
        first_BD: embeddings of one view, of any length.
        second_BD: of the other view.
        most: rows that are looked at.
    """
    with torch.no_grad(), torch.autocast(first_BD.device.type, enabled=False):
        a_BD = functional.normalize(first_BD[:most].float(), dim=1)
        b_BD = functional.normalize(second_BD[:most].float(), dim=1)
        centered_BD = a_BD - a_BD.mean(dim=0)
        variance = centered_BD.square().mean(dim=0)
        gram = centered_BD @ centered_BD.t() if len(a_BD) < a_BD.shape[1] else centered_BD.t() @ centered_BD
        spectrum = torch.linalg.eigvalsh(gram.double()).clamp(min=0).sqrt()
        share = spectrum / spectrum.sum().clamp(min=1e-30)
        entropy = -(share * share.clamp(min=1e-30).log()).sum()
        potential = (-2 * torch.pdist(a_BD).square()).exp().mean() if len(a_BD) > 1 else torch.ones(())
        return Health(
            std=float(variance.sqrt().mean() * a_BD.shape[1] ** 0.5),
            rank=float(entropy.exp()) if float(spectrum.sum()) > 1e-6 else 0.0,
            alignment=float((a_BD - b_BD).square().sum(dim=1).mean()),
            uniformity=float(potential.clamp(min=1e-30).log()),
        )
