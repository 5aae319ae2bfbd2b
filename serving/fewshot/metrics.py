"""How good answers and neighbors are: accuracy, calibration, retrieval, detection."""

from dataclasses import dataclass

import numpy as np

from vicinal.types import BoolArray, F32Array, I64Array

BIN_COUNT = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """One bin of a reliability diagram."""

    lower: float
    """Lower end, inclusive."""
    upper: float
    """Upper end, exclusive but for the last."""
    confidence: float
    """Mean confidence; 0 where the bin is empty."""
    accuracy: float
    """Share that was right; 0 where the bin is empty."""
    count: int
    """Predictions in the bin."""


def confusion(said_Q: I64Array, true_Q: I64Array, *, class_count: int) -> I64Array:
    """Returns counts by true and said class, int64 (C, C)."""
    counts = np.bincount(true_Q * class_count + said_Q, minlength=class_count**2)
    return counts.reshape(class_count, class_count).astype(np.int64)


def accuracies(counts_CC: I64Array) -> dict[str, float]:
    """Returns accuracy, balanced accuracy and macro F1 of a confusion matrix; classes never asked are left out."""
    total_C, said_C, right_C = counts_CC.sum(axis=1), counts_CC.sum(axis=0), np.diag(counts_CC)
    asked = total_C > 0
    f1_C = 2 * right_C / np.maximum(total_C + said_C, 1)
    return {
        "accuracy": float(right_C.sum() / max(total_C.sum(), 1)),
        "balanced_accuracy": float((right_C[asked] / total_C[asked]).mean()) if asked.any() else 0.0,
        "macro_f1": float(f1_C[asked].mean()) if asked.any() else 0.0,
    }


def reliability(p_QC: F32Array, true_Q: I64Array, *, bin_count: int = BIN_COUNT) -> list[Bin]:
    """Returns the bins of a reliability diagram.

    Args:
        p_QC: probabilities, float32 (Q, C).
        true_Q: class numbers, int64 (Q,).
        bin_count: bins of equal width, at least 1.
    """
    confidence_Q = p_QC.max(axis=1, initial=0.0)
    right_Q = p_QC.argmax(axis=1) == true_Q if p_QC.size else np.zeros(0, bool)
    place_Q = np.minimum((confidence_Q * bin_count).astype(np.int64), bin_count - 1)
    bins = []
    for number in range(bin_count):
        inside = place_Q == number
        bins.append(
            Bin(
                lower=number / bin_count,
                upper=(number + 1) / bin_count,
                confidence=float(confidence_Q[inside].mean()) if inside.any() else 0.0,
                accuracy=float(right_Q[inside].mean()) if inside.any() else 0.0,
                count=int(inside.sum()),
            )
        )
    return bins


def expected_calibration_error(bins: list[Bin]) -> float:
    """Returns the mean gap between confidence and accuracy over predictions (ECE, arXiv:1706.04599)."""
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / max(total, 1)


def retrieval(match_QK: BoolArray, relevant_Q: I64Array, *, depth: int) -> dict[str, float]:
    """Returns recall@k, precision@k, MAP@k and NDCG@k; queries without any relevant item are left out.

    Args:
        match_QK: whether each neighbor is relevant, best first, bool (Q, K) with K at most ``depth``.
        relevant_Q: relevant items there are for each query, int64 (Q,).
        depth: k.

    Returns:
        recall@k is the share of queries with a relevant neighbor among the first k, as TensorFlow
        Similarity has it; MAP@k divides by min(k, relevant items); NDCG@k has gains 0 and 1.
    """
    judged = relevant_Q > 0
    match_QK, relevant_Q = match_QK[judged], relevant_Q[judged]
    if not match_QK.size:
        return {f"{name}@{depth}": 0.0 for name in ("recall", "precision", "map", "ndcg")}
    rank_K = np.arange(1, match_QK.shape[1] + 1)
    possible_Q = np.minimum(relevant_Q, depth)
    precision_QK = np.cumsum(match_QK, axis=1) / rank_K
    discount_K = 1.0 / np.log2(rank_K + 1)
    best_Q = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(1, depth + 1) + 1))])[possible_Q]
    return {
        f"recall@{depth}": float(match_QK.any(axis=1).mean()),
        f"precision@{depth}": float((match_QK.sum(axis=1) / depth).mean()),
        f"map@{depth}": float(((precision_QK * match_QK).sum(axis=1) / possible_Q).mean()),
        f"ndcg@{depth}": float(((match_QK * discount_K).sum(axis=1) / best_Q).mean()),
    }


def auroc(low_A: F32Array, high_B: F32Array) -> float:
    """Returns the chance that a score of the second sample is above one of the first; ties count half."""
    low_A = np.sort(low_A)
    below_B = np.searchsorted(low_A, high_B, side="left")
    upto_B = np.searchsorted(low_A, high_B, side="right")
    return float((below_B + upto_B).mean() / (2 * low_A.size)) if low_A.size and high_B.size else 0.5
