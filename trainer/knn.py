"""Classification by nearest neighbours in an embedding, exactly: the measure of an encoder."""

import numpy as np
import torch

from vicinal.types import F32Array, I64Array

_CHUNK = 1024


def knn_predict(
    x_ND: F32Array, y_N: I64Array, x_QD: F32Array, *, k: int = 20, temperature: float | None = None
) -> I64Array:
    """Returns the class of each query by a vote of its nearest neighbours under the cosine.

    Args:
        x_ND: labelled embeddings, float32.
        y_N: their classes, int64, from 0.
        x_QD: queries, float32.
        k: neighbours that vote, at least 1.
        temperature: a vote counts exp(cosine / temperature); None: votes count the same, ties go to the
            class whose neighbours are closer.
    """
    x_ND, x_QD = unit(x_ND), unit(x_QD)
    bank_DN = torch.from_numpy(x_ND).t()
    class_count = int(y_N.max()) + 1
    k = min(k, len(x_ND))
    predicted_Q: I64Array = np.empty(len(x_QD), dtype=np.int64)
    for start in range(0, len(x_QD), _CHUNK):
        sim_QN = torch.from_numpy(x_QD[start : start + _CHUNK]) @ bank_DN
        cos_QK, top_QK = (found.numpy() for found in sim_QN.topk(k, dim=1))
        # A vote of 1 and a thousandth of the cosine, which settles ties.
        weight_QK = 1.0 + 1e-3 * cos_QK if temperature is None else np.exp((cos_QK - 1.0) / temperature)
        votes_QC = np.zeros((len(sim_QN), class_count))
        rows_Q1 = np.arange(len(sim_QN))[:, None]
        np.add.at(votes_QC, (rows_Q1, y_N[top_QK]), weight_QK)
        predicted_Q[start : start + _CHUNK] = votes_QC.argmax(axis=1)
    return predicted_Q


def knn_accuracy(
    x_ND: F32Array, y_N: I64Array, x_QD: F32Array, y_Q: I64Array, *, k: int = 20, temperature: float | None = None
) -> float:
    """Returns the fraction of queries whose class a vote of k neighbours gives; see ``knn_predict``."""
    predicted_Q = knn_predict(x_ND, y_N, x_QD, k=k, temperature=temperature)
    return float((predicted_Q == y_Q).mean())


def unit(x_ND: F32Array) -> F32Array:
    """Returns the rows divided by their lengths, float32; a row of zeros stays."""
    x_ND = np.asarray(x_ND, dtype=np.float32)
    length_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    result: F32Array = x_ND / np.maximum(length_N1, 1e-12)
    return result
