"""Label sets as columns: ``labels.NAME`` in a filter is the label of each item in the set NAME."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from index.filters import Filter, conditions_of, matching
from serving.generation import Generation
from serving.labels.log import LabelLog
from serving.options import decode_filter
from vicinal.errors import InvalidArgumentError
from vicinal.types import BoolArray
from vicinal.v1 import types_pb2

PREFIX = "labels."
Columns = Mapping[str, "pa.Array[Any]"]


def named_columns(where: Filter) -> list[str]:
    """Returns the label columns that a filter names."""
    return sorted({one.column for one in conditions_of(where) if one.column.startswith(PREFIX)})


def label_columns(log: Callable[[], LabelLog], generation: Generation, names: Iterable[str]) -> Columns:
    """Returns the label of every row, null where it has none, by column name.

    Args:
        log: opens the label log; called only when there is a name.
        generation: whose rows count.
        names: such as ``labels.clothes``.

    Raises:
        LabelSetNotFoundError: no such set.
        InvalidArgumentError: a set whose items may have several labels.
    """
    found: dict[str, pa.Array[Any]] = {}
    for name in names:
        label_set = log().get_set(name.removeprefix(PREFIX))
        if label_set.multi_label:
            raise InvalidArgumentError(
                f"column {name!r}: items of {label_set.name} may have several labels, and a column holds one",
                field="options.filter",
            )
        values = np.full(generation.snapshot.count, None, dtype=object)
        for row in log().labels(label_set.name):
            place = generation.snapshot.items.find(row.item_id)
            if place is not None:
                values[place] = row.label
        found[name] = pa.array(values, type=pa.string(), from_pandas=True)
    return found


def allowed_rows(log: LabelLog, generation: Generation, message: types_pb2.Filter) -> BoolArray:
    """Returns which rows a filter allows, bool (N,).

    Raises:
        InvalidArgumentError, NotFoundError: the filter is wrong.
    """
    where = decode_filter(message)
    columns = label_columns(lambda: log, generation, named_columns(where))
    return matching(where, generation.snapshot.items, columns=columns)
