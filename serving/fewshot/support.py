"""Turns the support of a request into embeddings and labels of one generation."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from serving.fewshot.model import Origin, Support, make_support
from serving.fewshot.space import unit
from serving.generation import Generation
from serving.queries import Queries
from vicinal.errors import InvalidLabelError
from vicinal.types import F32Array, I64Array, Metric
from vicinal.v1 import fewshot_service_pb2 as pb

if TYPE_CHECKING:
    from serving.context import Call

EXAMPLE_LIMIT = 10_000
_CENTER_ROWS = 20_000


def from_inline(
    generation: Generation, queries: Queries, examples: Sequence[pb.SupportExample], call: "Call"
) -> Support:
    """Makes a support set of labelled examples given with a request.

    Args:
        generation: whose embeddings count.
        queries: resolves item ids, images and vectors.
        examples: 1 to 10,000.
        call: whose deadline is checked.

    Raises:
        InvalidLabelError: none, too many, a bad label, or one item under two labels.
        VicinalError: what is wrong with an example that is no item, image or vector.
    """
    if not 1 <= len(examples) <= EXAMPLE_LIMIT:
        raise InvalidLabelError(
            f"the support has {len(examples):,} examples, wanted 1 to {EXAMPLE_LIMIT:,}; "
            "store more in a label set: vicinal label put",
            field="support.inline.examples",
        )
    labels = [_label_of(example, place) for place, example in enumerate(examples)]
    resolved = queries.resolve(generation, [example.query for example in examples], call)
    for place, error in enumerate(resolved.errors):
        if error is not None:
            raise type(error)(
                f"support example {place}: {error.message}",
                metadata=error.metadata,
                field=f"support.inline.examples[{place}]",
            )
    _refuse_two_labels(generation, resolved.own_rows_Q, labels)
    origins = [Origin(item_id=example.query.item_id, place=place) for place, example in enumerate(examples)]
    return make_support(at_scale(generation, resolved.x_QD), labels, origins=origins)


def from_items(generation: Generation, labels: Iterable[tuple[str, str | None]]) -> Support:
    """Makes a support set of labelled items; those that the snapshot does not hold are counted, not used.

    Args:
        generation: whose embeddings count.
        labels: item ids with a label each, or None for none of the classes.

    Raises:
        InvalidLabelError: no labelled item is in the snapshot.
    """
    rows: list[int] = []
    names: list[str | None] = []
    origins: list[Origin] = []
    missing_count = 0
    for item_id, label in labels:
        row = generation.snapshot.items.find(item_id)
        if row is None:
            missing_count += 1
            continue
        rows.append(row)
        names.append(label)
        origins.append(Origin(item_id=item_id))
    if not any(name is not None for name in names):
        raise InvalidLabelError(
            f"no labelled item is in {generation.ref.name} ({missing_count} are elsewhere); label some of its items"
        )
    x_ND = generation.snapshot.vectors_of(np.array(rows))
    return make_support(x_ND, names, origins=origins, missing_count=missing_count)


def at_scale(generation: Generation, x_QD: F32Array) -> F32Array:
    """Returns embeddings as the snapshot holds them: of unit length under cosine."""
    return unit(x_QD) if generation.snapshot.metric is Metric.COSINE else x_QD


def corpus_center(generation: Generation) -> F32Array:
    """Returns the mean embedding of a snapshot, from at most 20,000 rows evenly spread, float32 (D,)."""
    vectors_ND = generation.base.vectors_ND
    step = max(1, -(-vectors_ND.shape[0] // _CENTER_ROWS))
    return np.asarray(vectors_ND[::step].mean(axis=0, dtype=np.float64), dtype=np.float32)


def _label_of(example: pb.SupportExample, place: int) -> str | None:
    if example.negative and example.label:
        raise InvalidLabelError(
            f"support example {place} is negative and has the label {example.label[:40]!r}; give one of the two",
            field=f"support.inline.examples[{place}].label",
        )
    return None if example.negative else example.label


def _refuse_two_labels(generation: Generation, rows_N: I64Array, labels: Sequence[str | None]) -> None:
    seen: dict[int, str | None] = {}
    for row, label in zip(rows_N.tolist(), labels, strict=True):
        if row >= 0 and seen.setdefault(row, label) != label:
            item_id = generation.snapshot.items.item_ids([row])[0]
            raise InvalidLabelError(
                f"item {item_id!r} is in the support as {seen[row]!r} and as {label!r}; keep one",
                metadata={"item_id": item_id},
                field="support.inline.examples",
            )
