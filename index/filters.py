"""Conditions on items: what they are, and which rows of an item table satisfy them.

A null satisfies no comparison; it satisfies only "is null", and the opposite of a comparison.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vicinal.errors import InvalidArgumentError, NotFoundError, did_you_mean
from vicinal.types import BoolArray

Operator = Literal["in", "less", "less_or_equal", "greater", "greater_or_equal", "prefix", "is_null"]
Value = bool | int | float | str | datetime
Columns = Mapping[str, "pa.Array[Any] | pa.ChunkedArray[Any]"]


class Items(Protocol):
    """What is read of an item table."""

    count: int

    @property
    def columns(self) -> dict[str, str]:
        """Every column and its type."""
        ...

    def column(self, name: str) -> "pa.ChunkedArray[Any]":
        """Returns one column, of ``count`` values."""
        ...


MAX_DEPTH = 16
MAX_CONDITIONS = 1_000
MAX_VALUES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A comparison of one column."""

    column: str
    """A metadata column, a built-in one, or one that the caller brings, such as ``labels.NAME``."""
    operator: Operator
    """The comparison."""
    values: tuple[Value, ...] = ()
    """What to compare with: one value, 1 to 100,000 for ``in``, none for ``is_null``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllOf:
    """True where every member is."""

    filters: "tuple[Filter, ...]"
    """The members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """True where at least one member is."""

    filters: "tuple[Filter, ...]"
    """The members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoneOf:
    """True where the member is false."""

    filter: "Filter"
    """The member."""


Filter = Condition | AllOf | AnyOf | NoneOf

_COMPARISONS = {
    "less": pc.less,
    "less_or_equal": pc.less_equal,
    "greater": pc.greater,
    "greater_or_equal": pc.greater_equal,
}


def conditions_of(where: Filter, *, depth: int = 1) -> Iterator[Condition]:
    """Yields the conditions of a filter.

    Raises:
        InvalidArgumentError: it is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise InvalidArgumentError(f"the filter is nested over {MAX_DEPTH} levels", field="options.filter")
    if isinstance(where, Condition):
        yield where
        return
    for member in (where.filter,) if isinstance(where, NoneOf) else where.filters:
        yield from conditions_of(member, depth=depth + 1)


def matching(where: Filter, items: Items, *, columns: Columns | None = None) -> BoolArray:
    """Returns which items satisfy a filter, bool (N,).

    Args:
        where: the filter.
        items: the table.
        columns: further columns of N values, by name.

    Raises:
        NotFoundError: no such column; the message suggests one.
        InvalidArgumentError: a value of another type than its column, or too many conditions or levels.
    """
    conditions = list(conditions_of(where))
    if len(conditions) > MAX_CONDITIONS:
        raise InvalidArgumentError(
            f"the filter has {len(conditions)} conditions, at most {MAX_CONDITIONS}", field="options.filter"
        )
    return _evaluate(where, items, columns or {})


def _evaluate(where: Filter, items: Items, columns: Columns) -> BoolArray:
    if isinstance(where, Condition):
        return _compare(where, items, columns)
    if isinstance(where, NoneOf):
        return ~_evaluate(where.filter, items, columns)
    every = isinstance(where, AllOf)
    mask_N: BoolArray = np.full(items.count, every)
    for member in where.filters:
        member_N = _evaluate(member, items, columns)
        mask_N = mask_N & member_N if every else mask_N | member_N
    return mask_N


def _compare(condition: Condition, items: Items, columns: Columns) -> BoolArray:
    column = find_column(condition.column, items, columns)
    _check_values(condition)
    if condition.operator == "is_null":
        return np.asarray(pc.is_null(column), dtype=np.bool_)
    values = _typed(condition, column.type)
    if condition.operator == "in":
        matched = pc.is_in(column, value_set=values)
    elif condition.operator == "prefix":
        if not pa.types.is_string(column.type):
            raise _wrong(condition, f"is of type {column.type}; a prefix needs text")
        matched = pc.starts_with(column, values[0].as_py())
    else:
        matched = _COMPARISONS[condition.operator](column, values[0])
    return np.asarray(pc.fill_null(matched, False), dtype=np.bool_)  # noqa: FBT003 - Arrow's signature


def find_column(name: str, items: Items, columns: Columns) -> Any:
    """Returns a column of the caller or of the table.

    Raises:
        NotFoundError: no such column; the message suggests one.
    """
    if name in columns:
        return columns[name]
    known = items.columns
    if name not in known:
        raise NotFoundError(
            f"no column {name!r}{did_you_mean(name, [*known, *columns])}", metadata={"column": name[:200]}
        )
    return items.column(name)


def _check_values(condition: Condition) -> None:
    count = len(condition.values)
    low, high = {"in": (1, MAX_VALUES), "is_null": (0, 0)}.get(condition.operator, (1, 1))
    if not low <= count <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        raise _wrong(condition, f"is compared by {condition.operator} with {count} values, wanted {wanted}")


def _typed(condition: Condition, kind: Any) -> Any:
    """Returns the values as an Arrow array of the column's type."""
    values: list[Any] = list(condition.values)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    fits: dict[bool, tuple[type, ...]] = {
        numeric: (int, float),
        pa.types.is_boolean(kind): (bool,),
        pa.types.is_string(kind): (str,),
        pa.types.is_timestamp(kind): (datetime,),
    }
    wanted = fits[True]
    for value in values:
        if not isinstance(value, wanted) or (bool not in wanted and isinstance(value, bool)):
            raise _wrong(condition, f"is of type {kind}, got a value of type {type(value).__name__}")
    if pa.types.is_integer(kind) and any(isinstance(value, float) for value in values):
        kind = pa.float64()
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise _wrong(condition, f"is of type {kind}: {error}") from error


def _wrong(condition: Condition, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"column {condition.column!r} {what}", field="options.filter")
