"""Refines a batch of answers by what its queries have in common (opt-in).

Soft k-means on support and queries together, from the fitted probabilities ("refined prototypes",
Ren et al., arXiv:1803.00676, section 3.1). Differs: several rounds; the result is the geometric
mean of the refined and the inductive probabilities. It helps when the queries are many and of the
same classes, and can mislead when they are not, so it is never a default.
"""

import numpy as np

from serving.fewshot.head import softmax
from serving.fewshot.space import one_hot, unit
from vicinal.types import F32Array, I64Array

_ROUND_COUNT = 5
_TEMPERATURE = 0.1


def refine(p_QC: F32Array, x_QD: F32Array, z_ND: F32Array, y_N: I64Array) -> F32Array:
    """Returns refined probabilities.

    Args:
        p_QC: inductive probabilities, float32 (Q, C).
        x_QD: queries, centred, unit length, float32 (Q, D).
        z_ND: support, prepared the same, float32 (N, D).
        y_N: class numbers, int64 (N,).

    Returns:
        float32 (Q, C); each row sums to 1.
    """
    support_CD = one_hot(y_N, class_count=p_QC.shape[1]).T @ z_ND
    refined_QC = p_QC
    for _ in range(_ROUND_COUNT):
        mean_CD = unit(support_CD + refined_QC.T @ x_QD)
        refined_QC = softmax(x_QD @ mean_CD.T, temperature=_TEMPERATURE)
    log_QC = (np.log(np.maximum(refined_QC, 1e-9)) + np.log(np.maximum(p_QC, 1e-9))) / 2
    return softmax(log_QC.astype(np.float32), temperature=1.0)
