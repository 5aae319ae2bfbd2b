"""Spectral coordinates of images: where each lies among all, learned from who is near to whom, without labels.

Images that a chain of near neighbors joins come close together, which classifiers of few labels gain from. The
coordinates are eigenvectors of the random walk on the graph of nearest neighbors: "Laplacian Eigenmaps for
Dimensionality Reduction and Data Representation", Belkin and Niyogi, Neural Computation 15 (2003), each times a power
of its eigenvalue as in "Diffusion maps", Coifman and Lafon, Applied and Computational Harmonic Analysis 21 (2006), eq.
3. A small network learns to tell them of any image, as in "SpectralNet", arXiv:1801.01587.

Differs: the graph joins cosines, with one width; rows are of unit length ("On Spectral Clustering", Ng, Jordan and
Weiss, NIPS 2001); the eigenvectors are found first, by orthogonal iteration, and then learned by their cosine.
"""

import warnings

import torch
from torch import nn
from torch.nn import functional

from vicinal.modalities.image.readout import SpectralReadout

NEIGHBORS = 20
"""That an image is joined to."""
_WIDTH, _TIME = 0.2, 4.0
"""Of the kernel over cosines; steps of the random walk."""
_ITERATIONS, _BESIDE = 30, 16
"""Of orthogonal iteration, and vectors that it carries beside those that are wanted."""
_ROWS = 1_000
_STEPS, _BATCH, _RATE, _DECAY = 3.3, 512, 4e-3, 1e-2
"""Of learning: steps for the root of the number of images, and what AdamW takes."""


def learn_coordinates(readout: SpectralReadout, x_VNA: torch.Tensor, *, seed: int) -> None:
    """Fits the coordinates of a readout, whose axes are there already, in place.

    Args:
        readout: what is fitted; in evaluation mode afterwards.
        x_VNA: what N images are on the axes, each seen in V ways, of unit length, float32; N above ``NEIGHBORS``
            and the number of coordinates. The graph joins the means of the ways; all of them get the coordinates of
            their image.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        last = readout.coordinates[-1]
        assert isinstance(last, nn.Linear)
        mean_NA = functional.normalize(x_VNA.mean(dim=0), dim=1)
        wanted_NS = spectral_coordinates(mean_NA, count=last.out_features, generator=generator)
    for layer in readout.coordinates:
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for tensor in (layer.weight, layer.bias):
                nn.init.uniform_(tensor, -bound, bound, generator=generator)
    parameters = [parameter.requires_grad_() for parameter in readout.coordinates.parameters()]
    solver = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_DECAY)
    readout.train()
    count = len(wanted_NS)
    batch, order_N, place = min(_BATCH, count), torch.randperm(count, generator=generator), 0
    steps = round(_STEPS * count**0.5)
    for step in range(steps):
        if place + batch > count:
            order_N, place = torch.randperm(count, generator=generator), 0
        rows_B, place = order_N[place : place + batch], place + batch
        look_B = torch.randint(len(x_VNA), (batch,), generator=generator)
        solver.param_groups[0]["lr"] = _RATE * (1 - step / steps)
        loss = 1 - (readout.locate(x_VNA[look_B, rows_B]) * wanted_NS[rows_B]).sum(dim=1).mean()
        solver.zero_grad()
        torch.autograd.backward(loss)
        solver.step()
    readout.eval().requires_grad_(requires_grad=False)


def spectral_coordinates(x_ND: torch.Tensor, *, count: int, generator: torch.Generator) -> torch.Tensor:
    """Returns z_NS, float32, of unit length: the S smoothest functions on the graph of neighbors but the constant one.

    Args:
        x_ND: unit vectors, float32.
        count: S, below N.
        generator: of what the iteration begins with.
    """
    walk_NN, degree_N = _normalized(x_ND)
    beside = min(count + 1 + _BESIDE, len(x_ND))
    basis_NM = torch.linalg.qr(torch.randn(len(x_ND), beside, generator=generator)).Q
    for _ in range(_ITERATIONS):
        # Half a step stays where it is, so that no eigenvalue is negative and the largest are the smoothest.
        basis_NM = torch.linalg.qr(walk_NN @ basis_NM + basis_NM).Q
    values_M, turn_MM = torch.linalg.eigh(basis_NM.t() @ walk_NN @ basis_NM)
    # The largest is that of the constant function.
    chosen = slice(1, count + 1)
    values_S = values_M.flip(0)[chosen].clamp(min=0.0)
    vectors_NS = (basis_NM @ turn_MM.flip(1)[:, chosen]) / degree_N.sqrt()[:, None]
    return functional.normalize(vectors_NS * values_S**_TIME, dim=1)


def _normalized(x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the affinities divided by the roots of the degrees, sparse, and the degrees."""
    size = len(x_ND)
    cosines_NK, others_NK = _nearest(x_ND, count=min(NEIGHBORS, size - 1))
    # An edge weighs as much from both of its ends.
    weights_E = torch.exp((cosines_NK.flatten() - 1) / _WIDTH) / 2
    ends = torch.stack([torch.arange(size).repeat_interleave(others_NK.shape[1]), others_NK.flatten()])
    both_2E = torch.cat([ends, ends.flip(0)], dim=1)
    graph = torch.sparse_coo_tensor(
        both_2E, torch.cat([weights_E, weights_E]), (size, size), check_invariants=True
    ).coalesce()
    degree_N = torch.sparse.sum(graph, dim=1).to_dense()
    row_E, column_E = graph.indices()
    values_E = graph.values() / (degree_N[row_E] * degree_N[column_E]).sqrt()
    starts_N1 = torch.searchsorted(row_E, torch.arange(size + 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        # By rows it multiplies several times as quickly.
        walk_NN = torch.sparse_csr_tensor(starts_N1, column_E, values_E, (size, size), check_invariants=True)
    return walk_NN, degree_N


def _nearest(x_ND: torch.Tensor, *, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the cosines of each image's nearest others, x_NK, and which they are, int64; each pair is met once."""
    size = len(x_ND)
    cosines_NK = torch.full((size, count), -torch.inf)
    others_NK = torch.zeros((size, count), dtype=torch.int64)

    def meet(rows: slice, sim_rC: torch.Tensor, *, first: int) -> None:
        found = sim_rC.topk(min(count, sim_rC.shape[1]), dim=1)
        both = torch.cat([others_NK[rows], found.indices + first], dim=1)
        best = torch.cat([cosines_NK[rows], found.values], dim=1).topk(count, dim=1)
        cosines_NK[rows], others_NK[rows] = best.values, both.gather(1, best.indices)

    for start in range(0, size, _ROWS):
        stop = min(start + _ROWS, size)
        sim_bC = x_ND[start:stop] @ x_ND[start:].t()
        sim_bC.diagonal().fill_(-2.0)
        meet(slice(start, stop), sim_bC, first=start)
        if stop < size:
            meet(slice(stop, size), sim_bC[:, stop - start :].t(), first=start)
    return cosines_NK, others_NK
