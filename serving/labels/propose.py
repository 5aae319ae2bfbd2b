"""Runs a classifier over the unlabelled items of a snapshot."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from serving.fewshot import evidence
from serving.fewshot.models import Fit
from serving.fewshot.space import centered, class_sums, unit
from serving.generation import Generation
from serving.labels.proposals import Proposal
from vicinal.errors import FailedPreconditionError
from vicinal.types import F32Array, I64Array

if TYPE_CHECKING:
    from serving.context import Call

EVIDENCE_COUNT = 3
_CHUNK_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to propose."""

    min_probability: float
    """At least this probability, in [0, 1]."""
    count: int
    """This many at most, the most probable."""


def propose(
    generation: Generation, fit: Fit, *, rows: I64Array, rejected: set[tuple[str, str]], wanted: Wanted, call: "Call"
) -> list[Proposal]:
    """Proposes labels for items, the most probable first.

    With negatives in the set, what the detector calls unknown is not proposed.

    Args:
        generation: whose items are looked at.
        fit: the fitted model.
        rows: candidates, int64.
        rejected: items and labels that were rejected before.
        wanted: how probable, and how many.
        call: whose deadline is checked between the parts.

    Raises:
        FailedPreconditionError: fewer than two classes have labels.
    """
    model = fit.model
    if len(model.support.classes) < 2:
        raise FailedPreconditionError("a proposal needs labels of at least two classes in the snapshot; label some")
    best_p, best_c, best_row = _judge(generation, fit, rows, wanted.min_probability, call)
    order = np.lexsort((best_row, -best_p))
    keep: list[int] = []
    for start in range(0, order.size, max(wanted.count, 1)):
        part = order[start : start + wanted.count]
        item_ids = generation.snapshot.items.item_ids(best_row[part])
        classes = model.support.classes
        keep += [
            int(place)
            for place, item_id in zip(part, item_ids, strict=True)
            if (item_id, classes[best_c[place]]) not in rejected
        ]
        if len(keep) >= wanted.count:
            break
    chosen = np.array(keep[: wanted.count], dtype=np.int64)
    return _describe(generation, fit, best_row[chosen], best_c[chosen], best_p[chosen])


def _judge(
    generation: Generation, fit: Fit, rows: I64Array, least: float, call: "Call"
) -> tuple[F32Array, I64Array, I64Array]:
    found_p, found_c, found_row = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    detector = fit.model.detector
    for start in range(0, rows.size, _CHUNK_ROWS):
        call.check()
        part = rows[start : start + _CHUNK_ROWS]
        said = fit.model.predict(generation.snapshot.vectors_of(part))
        c_P = said.p_QC.argmax(axis=1)
        p_P = said.p_QC[np.arange(part.size), c_P]
        good = p_P >= least
        if detector.negative_MD.shape[0]:
            good &= said.unknown_Q <= detector.threshold
        found_p.append(p_P[good])
        found_c.append(c_P[good])
        found_row.append(part[good])
    return np.concatenate(found_p), np.concatenate(found_c), np.concatenate(found_row)


def _describe(generation: Generation, fit: Fit, rows: I64Array, c_P: I64Array, p_P: F32Array) -> list[Proposal]:
    model, items = fit.model, generation.snapshot.items
    prototypes_CD = unit(class_sums(model.z_ND, model.support.y_N, class_count=len(model.support.classes)))
    found: list[Proposal] = []
    for start in range(0, rows.size, _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        x_PD = generation.snapshot.vectors_of(rows[part])
        score_P = np.einsum("pd,pd->p", centered(x_PD, model.center_D), prototypes_CD[c_P[part]])
        near = evidence.nearest(model, x_PD, count=EVIDENCE_COUNT, metric=generation.snapshot.metric)
        for place, item_id in enumerate(items.item_ids(rows[part])):
            found.append(
                Proposal(
                    item_id=item_id,
                    label=model.support.classes[c_P[start + place]],
                    probability=float(p_P[start + place]),
                    score=float(score_P[place]),
                    evidence=tuple(model.support.origins[i].item_id for i in near.places_QK[place]),
                )
            )
    return found
