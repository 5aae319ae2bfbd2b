"""Turns the options of a request into those of the index, within the limits of a server."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from index.filters import AllOf, AnyOf, Condition, Filter, NoneOf, Operator
from index.search import SearchOptions
from index.unwanted import Grouping, Page
from serving.config import LimitsConfig
from serving.items import decode_token, encode_token
from vicinal.codec import decode_value
from vicinal.errors import InvalidArgumentError
from vicinal.types import Neighbors
from vicinal.v1 import types_pb2

_MAX_EXCLUDED = 10_000
_MAX_DEPTH = 16
_MAX_MEMBERS = 1_000
_OPERATORS: Mapping[int, Operator] = {
    types_pb2.OPERATOR_IN: "in",
    types_pb2.OPERATOR_LESS: "less",
    types_pb2.OPERATOR_LESS_OR_EQUAL: "less_or_equal",
    types_pb2.OPERATOR_GREATER: "greater",
    types_pb2.OPERATOR_GREATER_OR_EQUAL: "greater_or_equal",
    types_pb2.OPERATOR_PREFIX: "prefix",
    types_pb2.OPERATOR_IS_NULL: "is_null",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageToken:
    """What a page token of Search holds."""

    snapshot: str
    """Snapshot on which the search began, and goes on."""
    page: Page
    """Where the page before ended."""


def decode_options(
    message: types_pb2.SearchOptions, *, limits: LimitsConfig, query_count: int, page: Page | None = None
) -> SearchOptions:
    """Returns the options of a request, checked against the limits.

    Args:
        message: the options.
        limits: the limits.
        query_count: queries that they are for.
        page: where the page before ended.

    Raises:
        InvalidArgumentError: an option is out of range, or two exclude each other.
    """
    wanted = message.neighbor_count if message.HasField("neighbor_count") else SearchOptions().neighbor_count
    if not 1 <= wanted <= limits.max_neighbor_count:
        raise InvalidArgumentError(
            f"neighbor_count is {wanted}, wanted 1 to {limits.max_neighbor_count}", field="options.neighbor_count"
        )
    if wanted * query_count > limits.max_reply_neighbors:
        raise InvalidArgumentError(
            f"{query_count} queries with {wanted} neighbors each are more than {limits.max_reply_neighbors} "
            "in one reply; send smaller batches",
            field="options.neighbor_count",
        )
    if len(message.excluded_item_ids) > _MAX_EXCLUDED:
        raise InvalidArgumentError(
            f"{len(message.excluded_item_ids)} excluded items, the limit is {_MAX_EXCLUDED}",
            field="options.excluded_item_ids",
        )
    return SearchOptions(
        neighbor_count=wanted,
        effort=message.effort if message.HasField("effort") else None,
        target_recall=message.target_recall if message.HasField("target_recall") else None,
        min_score=message.min_score if message.HasField("min_score") else None,
        filter=decode_filter(message.filter) if message.HasField("filter") else None,
        excluded_item_ids=tuple(message.excluded_item_ids),
        exclude_duplicates=message.exclude_duplicates,
        grouping=_grouping(message.grouping) if message.HasField("grouping") else None,
        page=page,
    )


def decode_filter(message: types_pb2.Filter, *, depth: int = 1) -> Filter:
    """Returns a filter.

    Raises:
        InvalidArgumentError: empty, nested too deeply, too many members, or an unknown operator.
    """
    kind = message.WhichOneof("filter")
    if depth > _MAX_DEPTH:
        raise InvalidArgumentError(f"the filter is nested more than {_MAX_DEPTH} levels", field="options.filter")
    if kind == "condition":
        return _condition(message.condition)
    if kind == "none_of":
        return NoneOf(filter=decode_filter(message.none_of, depth=depth + 1))
    if kind is None:
        raise InvalidArgumentError(
            "the filter is empty; set condition, all_of, any_of or none_of", field="options.filter"
        )
    members = (message.all_of if kind == "all_of" else message.any_of).filters
    if len(members) > _MAX_MEMBERS:
        raise InvalidArgumentError(
            f"{kind} has {len(members)} members, the limit is {_MAX_MEMBERS}", field="options.filter"
        )
    filters = tuple(decode_filter(member, depth=depth + 1) for member in members)
    return AllOf(filters=filters) if kind == "all_of" else AnyOf(filters=filters)


def decode_page(token: str, *, snapshot: str) -> PageToken:
    """Returns what a page token of Search holds.

    Args:
        token: the token.
        snapshot: snapshot that the request names; empty for none.

    Raises:
        InvalidArgumentError: not a token of Search, or of another snapshot than the request names.
    """
    fields = decode_token("search", token, snapshot=str, offset=int, score=float, row=int)
    if snapshot not in {"", fields["snapshot"]} or fields["offset"] < 1 or fields["row"] < 0:
        raise InvalidArgumentError("page_token is of another snapshot; start without one", field="options.page_token")
    page = Page(offset=fields["offset"], score=fields["score"], row=fields["row"])
    return PageToken(snapshot=fields["snapshot"], page=page)


def next_page_token(found: Neighbors, options: SearchOptions, *, snapshot: str) -> str:
    """Returns the token of the page behind what was found for one query, empty when that was the last.

    Args:
        found: the neighbors of the one query.
        options: how they were searched.
        snapshot: where.
    """
    count = int(found.counts_Q[0])
    if count < options.neighbor_count:
        return ""
    offset = (options.page.offset if options.page else 0) + count
    last = {"score": float(found.scores_QK[0, count - 1]), "row": int(found.rows_QK[0, count - 1])}
    return encode_token("search", {"snapshot": snapshot, "offset": offset, **last})


def _condition(message: types_pb2.Condition) -> Condition:
    operator = _OPERATORS.get(message.operator)
    if operator is None:
        raise InvalidArgumentError(
            f"operator {message.operator} is not one; see Operator in the contract", field="options.filter"
        )
    values = tuple(decode_value(value) for value in message.values)
    if any(value is None for value in values):
        raise InvalidArgumentError(
            "a condition compares with values, not with null; use OPERATOR_IS_NULL", field="options.filter"
        )
    known = cast("tuple[bool | int | float | str | datetime, ...]", values)
    return Condition(column=message.column, operator=operator, values=known)


def _grouping(message: types_pb2.Grouping) -> Grouping:
    if message.neighbor_count < 0:
        raise InvalidArgumentError(
            f"neighbor_count of a group is {message.neighbor_count}, wanted at least 1",
            field="options.grouping.neighbor_count",
        )
    return Grouping(column=message.column, neighbor_count=message.neighbor_count or 1)
