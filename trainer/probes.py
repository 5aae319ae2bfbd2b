"""Linear classifiers on frozen embeddings."""

import numpy as np
import torch
from torch.nn import functional

from trainer.knn import unit
from vicinal.types import F32Array, I64Array

_DECAYS = (1e-3, 1e-2, 1e-1, 1.0)
"""In units of the mean eigenvalue of the covariance."""


def linear_predict(
    x_ND: F32Array, y_N: I64Array, x_QD: F32Array, *, decay: float = 1e-3, iterations: int = 100
) -> I64Array:
    """Returns the classes of queries by multinomial logistic regression, fitted with L-BFGS.

    The embeddings are brought to unit length, centred, and scaled by one number so that the mean
    squared length is D, as the decay then means the same for any encoder.

    Args:
        x_ND: labelled embeddings.
        y_N: their classes, int64, from 0.
        x_QD: queries.
        decay: weight of the squared weights beside the mean loss.
        iterations: of L-BFGS.
    """
    x_ND, x_QD = unit(x_ND), unit(x_QD)
    center_D = x_ND.mean(axis=0)
    scale = float((x_ND - center_D).std()) or 1.0
    features_ND, features_QD = (torch.from_numpy((x - center_D) / scale) for x in (x_ND, x_QD))
    target_N = torch.from_numpy(y_N)
    class_count = int(target_N.max()) + 1
    w_CD = torch.zeros(class_count, features_ND.shape[1], requires_grad=True)
    b_C = torch.zeros(class_count, requires_grad=True)
    solver = torch.optim.LBFGS([w_CD, b_C], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        logits_NC = functional.linear(features_ND, w_CD, b_C)
        loss = functional.cross_entropy(logits_NC, target_N) + 0.5 * decay * w_CD.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        predicted_Q: I64Array = functional.linear(features_QD, w_CD, b_C).argmax(dim=1).numpy()
    return predicted_Q


def ridge_predict(x_ND: F32Array, y_N: I64Array, x_QD: F32Array) -> I64Array:
    """Returns the classes of queries by ridge regression on the classes, in closed form: a linear probe of a second.

    The decay is the best of four on every fifth labelled row, which the other four fifths are fitted to;
    then all are. Embeddings are brought to unit length and centred.

    Args:
        x_ND: labelled embeddings.
        y_N: their classes, int64, from 0.
        x_QD: queries.
    """
    features_ND, features_QD = unit(x_ND), unit(x_QD)
    center_D = features_ND.mean(axis=0)
    a_ND, a_QD = (torch.from_numpy(x - center_D) for x in (features_ND, features_QD))
    target_N = torch.from_numpy(y_N)
    held_N = torch.arange(len(target_N)) % 5 == 4
    decay = _DECAYS[0]
    if held_N.any():
        kept = (a_ND[~held_N], target_N[~held_N], a_ND[held_N])
        right = {d: float((_ridge(*kept, decay=d) == target_N[held_N]).float().mean()) for d in _DECAYS}
        decay = max(_DECAYS, key=lambda d: right[d])
    predicted_Q: I64Array = _ridge(a_ND, target_N, a_QD, decay=decay).numpy()
    return predicted_Q


def _ridge(x_ND: torch.Tensor, target_N: torch.Tensor, x_QD: torch.Tensor, *, decay: float) -> torch.Tensor:
    count, dimension = x_ND.shape
    wanted_NC = functional.one_hot(target_N).float()
    wanted_NC = wanted_NC - wanted_NC.mean(dim=0)
    scale = float(x_ND.square().sum()) / min(count, dimension) + 1e-12
    # N >= D: solve in D x D, else in N x N.
    if count >= dimension:
        gram_DD = x_ND.t() @ x_ND
        gram_DD.diagonal().add_(decay * scale)
        w_DC = torch.linalg.solve(gram_DD, x_ND.t() @ wanted_NC)
    else:
        gram_NN = x_ND @ x_ND.t()
        gram_NN.diagonal().add_(decay * scale)
        w_DC = x_ND.t() @ torch.linalg.solve(gram_NN, wanted_NC)
    # The mean of the classes is put back: a class of many wins where features say nothing.
    predicted_Q: torch.Tensor = (x_QD @ w_DC + functional.one_hot(target_N).float().mean(dim=0)).argmax(dim=1)
    return predicted_Q


def centroid_predict(x_ND: F32Array, y_N: I64Array, x_QD: F32Array) -> I64Array:
    """Returns the class whose mean is nearest to each query, after centring all by the mean of the labelled.

    Args:
        x_ND: labelled embeddings.
        y_N: their classes, int64, from 0.
        x_QD: queries.
    """
    x_ND, x_QD = unit(x_ND), unit(x_QD)
    center_D = x_ND.mean(axis=0)
    means = [unit((x_ND[y_N == c] - center_D).mean(axis=0, keepdims=True))[0] for c in range(int(y_N.max()) + 1)]
    scores_QC = unit(x_QD - center_D) @ np.stack(means).T
    predicted_Q: I64Array = scores_QC.argmax(axis=1)
    return predicted_Q
