"""What is asked: queries and options of a search, and their messages."""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias, TypedDict, cast

import numpy as np
import numpy.typing as npt

from vicinal.codec import encode_vector
from vicinal.errors import InvalidArgumentError, InvalidVectorError
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2

QueryLike: TypeAlias = "str | bytes | npt.NDArray[np.floating] | Sequence[float] | types_pb2.Query"
"""An item id, an encoded image, a vector of shape (D,), or a Query message (for examples)."""
_F32 = np.dtype("<f4")


class Options(TypedDict, total=False):
    """How to search; what is left out has the server's default."""

    neighbor_count: int
    """Neighbors wanted, from 1 to the server's limit (default 10,000). Default 10."""
    effort: int
    """Search effort of the index kind, at least 1; excludes ``target_recall``."""
    target_recall: float
    """Recall wanted, in (0, 1]; 1 is exact search."""
    min_score: float
    """Keep only neighbors with at least this score."""
    filter: types_pb2.Filter
    """Only items that match."""
    excluded_item_ids: Sequence[str]
    """Items never to return, up to 10,000."""
    include_query_item: bool
    """Return the queried item itself too."""
    exclude_duplicates: bool
    """Return one item of each set with identical content."""
    group_by: str
    """Column of which each value may have ``group_size`` neighbors."""
    group_size: int
    """Neighbors of each group at most, at least 1. Default 1."""
    include_items: bool
    """Return the items themselves, not their ids alone."""
    page_token: str
    """From ``SearchResult.next_page_token``; Search alone."""


def search_request(query: QueryLike, snapshot: str, fingerprint: str, options: Options) -> pb.SearchRequest | bytes:
    """Returns the request of one search: a message, or for a vector its bytes, of which a template is kept.

    Args:
        query: as for ``search``, and so the others.
        snapshot: the snapshot to answer from.
        fingerprint: of the encoder that made a vector.
        options: how to search.

    Raises:
        InvalidArgumentError: as ``fill_query`` and ``encode_options``.
    """
    if isinstance(query, np.ndarray) and query.ndim == 1 and query.size and query.dtype.kind == "f":
        try:
            before, behind = _around_vector(query.size, snapshot, fingerprint, tuple(options.items()))
        except TypeError:
            # Options that are no keys, such as filters.
            pass
        else:
            return before + np.asarray(query, dtype=_F32).tobytes() + behind
    request = pb.SearchRequest(options=encode_options(options), snapshot=snapshot)
    fill_query(request.query, query, fingerprint=fingerprint)
    return request


@functools.lru_cache(maxsize=64)
def _around_vector(
    dimension: int, snapshot: str, fingerprint: str, options: tuple[tuple[str, Any], ...]
) -> tuple[bytes, bytes]:
    """Returns what stands before and behind the values of a vector in a request."""
    values = b"\xff" * (_F32.itemsize * dimension)
    request = pb.SearchRequest(options=encode_options(cast("Options", dict(options))), snapshot=snapshot)
    request.query.vector.packed = values
    request.query.vector.dimension = dimension
    request.query.vector.fingerprint = fingerprint
    # Before it are tags and lengths alone, which have no such run of bytes.
    before, _, behind = request.SerializeToString().partition(values)
    return before, behind


def encode_query(query: QueryLike, *, fingerprint: str = "") -> types_pb2.Query:
    """Returns the message of a query; see ``fill_query``."""
    message = types_pb2.Query()
    fill_query(message, query, fingerprint=fingerprint)
    return message


def fill_query(message: types_pb2.Query, query: QueryLike, *, fingerprint: str = "") -> None:
    """Writes a query into its place in a request.

    Args:
        message: the empty place.
        query: an item id, the bytes of an image, a vector, or a message, which stays as it is.
        fingerprint: of the encoder that made a vector; empty for the snapshot's own.

    Raises:
        InvalidArgumentError: not an item id, image, vector or Query.
    """
    if isinstance(query, str):
        message.item_id = query
    elif isinstance(query, bytes | bytearray | memoryview):
        message.content = bytes(query)
    elif isinstance(query, types_pb2.Query):
        message.CopyFrom(query)
    else:
        try:
            x_D = np.asarray(query, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"a query is an item id (str), an image (bytes) or a vector, got {type(query).__name__}", field="query"
            ) from error
        if x_D.ndim != 1:
            raise InvalidVectorError(
                f"a query vector has shape (D,), got {x_D.shape}; use batch_search for several", field="query"
            )
        message.vector.CopyFrom(encode_vector(x_D))
        message.vector.fingerprint = fingerprint


def encode_options(options: Options) -> types_pb2.SearchOptions:
    """Returns the message of search options.

    Raises:
        InvalidArgumentError: a number is outside the range of its type; ``neighbor_count`` that is
            merely too large is the server's to judge.
    """
    fields: dict[str, Any] = dict(options)
    group_by, group_size = fields.pop("group_by", ""), fields.pop("group_size", 0)
    if group_by or group_size:
        fields["grouping"] = types_pb2.Grouping(column=group_by, neighbor_count=group_size)
    if fields.pop("include_items", False):
        fields["item_view"] = types_pb2.ITEM_VIEW_FULL
    try:
        return types_pb2.SearchOptions(**fields)
    except (ValueError, TypeError) as error:
        raise InvalidArgumentError(f"an option is of the wrong type or range: {error}", field="options") from error
