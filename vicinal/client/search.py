"""The calls of SearchService."""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias, TypedDict, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import Unpack, override

from vicinal.client.call import Call
from vicinal.client.results import BatchSearchResult, EmbedResult, Item, Plan, SearchResult
from vicinal.codec import decode_error, decode_ref, decode_value, decode_vectors, encode_vector, encode_vectors
from vicinal.errors import InvalidArgumentError, InvalidVectorError, VicinalError
from vicinal.types import F32Array, SnapshotRef
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2

QueryLike: TypeAlias = "str | bytes | npt.NDArray[np.floating] | Sequence[float] | types_pb2.Query"
"""An item id, an encoded image, a vector of shape (D,), or a Query message (for examples)."""
_SERVICE = "/vicinal.v1.SearchService"
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


def search(
    query: QueryLike,
    *,
    snapshot: str = "",
    fingerprint: str = "",
    timeout_s: float | None = None,
    **options: Unpack[Options],
) -> Call[SearchResult]:
    """Finds the neighbors of one query.

    Args:
        query: an item id, the bytes of an image, or a vector, shape (D,).
        snapshot: answer from this snapshot, such as ``snapshots/000007``; empty for the active one.
        fingerprint: of the encoder that made a vector; empty for the snapshot's own. Of another it is answered through
            a bridge, where there is one, and ``plan.bridged`` says so.
        timeout_s: seconds to wait for the answer; None takes the client's.
        options: ``neighbor_count`` and the others of ``Options``.

    Returns:
        The neighbors, best first, and the snapshot that answered.

    Raises:
        VicinalError: of the class that the server raised; see docs/api.md.
    """
    return Call(
        method=f"{_SERVICE}/Search",
        request=_request(query, snapshot, fingerprint, options),
        response=pb.SearchResponse,
        decode=decode_search,
        timeout_s=timeout_s,
    )


def batch_search(
    queries: npt.NDArray[np.floating] | Sequence[QueryLike],
    *,
    snapshot: str = "",
    fingerprint: str = "",
    timeout_s: float | None = None,
    **options: Unpack[Options],
) -> Call[BatchSearchResult]:
    """Finds the neighbors of many queries at once.

    Args:
        queries: vectors, shape (Q, D), which is the fast form; or a list of queries of any form.
        snapshot: answer from this snapshot; empty for the active one.
        fingerprint: of the encoder that made the vectors, as for ``search``.
        timeout_s: seconds to wait for the answer; None takes the client's.
        options: ``neighbor_count`` and the others of ``Options``.

    Returns:
        A result or an error for each query, in their order.

    Raises:
        VicinalError: of the class that the server raised; see docs/api.md.
    """
    request = pb.BatchSearchRequest(options=encode_options(options), snapshot=snapshot)
    if isinstance(queries, np.ndarray):
        request.vectors.CopyFrom(encode_vectors(queries))
        request.vectors.fingerprint = fingerprint
    else:
        request.queries.extend(encode_query(query, fingerprint=fingerprint) for query in queries)
    return Call(
        method=f"{_SERVICE}/BatchSearch",
        request=request,
        response=pb.BatchSearchResponse,
        decode=_decode_batch,
        timeout_s=timeout_s,
    )


def embed(contents: Sequence[bytes], *, snapshot: str = "", timeout_s: float | None = None) -> Call[EmbedResult]:
    """Embeds images with the encoder of a snapshot.

    Args:
        contents: encoded images (JPEG, PNG, ...), 1 to the server's limit (default 256).
        snapshot: use the encoder of this snapshot; empty for the active one.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Returns:
        The embeddings, and an error for each image that could not be embedded.

    Raises:
        VicinalError: of the class that the server raised; see docs/api.md.
    """
    return Call(
        method=f"{_SERVICE}/Embed",
        request=pb.EmbedRequest(contents=contents, snapshot=snapshot),
        response=pb.EmbedResponse,
        decode=_decode_embed,
        timeout_s=timeout_s,
    )


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


def _request(query: QueryLike, snapshot: str, fingerprint: str, options: Options) -> pb.SearchRequest | bytes:
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
    request = pb.SearchRequest(options=encode_options(dict(options)), snapshot=snapshot)
    request.query.vector.packed = values
    request.query.vector.dimension = dimension
    request.query.vector.fingerprint = fingerprint
    # Before it are tags and lengths alone, which have no such run of bytes.
    before, _, behind = request.SerializeToString().partition(values)
    return before, behind


def decode_item(message: types_pb2.Item) -> Item:
    """Decodes an item."""
    return Item(
        item_id=message.item_id,
        digest=message.digest,
        source=message.source,
        path=message.path,
        added_at=message.added_at.ToDatetime(),
        metadata={name: decode_value(value) for name, value in message.metadata.items()},
    )


def decode_search(reply: pb.SearchResponse) -> SearchResult:
    """Decodes the reply of Search."""
    # Reply after reply says the same of snapshot and plan.
    ref, plan = _known_ref(reply.snapshot.SerializeToString()), _known_plan(reply.plan.SerializeToString())
    return _result(reply.neighbors, ref, plan, reply.next_page_token)


def encode_options(options: Options | dict[str, Any]) -> types_pb2.SearchOptions:
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


@functools.lru_cache(maxsize=64)
def _known_ref(raw: bytes) -> SnapshotRef:
    return decode_ref(types_pb2.SnapshotRef.FromString(raw))


@functools.lru_cache(maxsize=64)
def _known_plan(raw: bytes) -> Plan:
    return _plan(pb.SearchPlan.FromString(raw))


def _plan(message: pb.SearchPlan) -> Plan:
    return Plan(
        strategy=message.strategy,
        effort=message.effort,
        expected_recall=message.expected_recall,
        bridged=message.bridged,
    )


def _result(neighbors: types_pb2.Neighbors, ref: SnapshotRef, plan: Plan, token: str = "") -> SearchResult:
    return SearchResult(
        item_ids=list(neighbors.item_ids),
        scores=np.array(neighbors.scores[:], dtype=np.float32),  # a list is read four times as fast as the container
        snapshot=ref,
        plan=plan,
        items=[decode_item(item) for item in neighbors.items],
        next_page_token=token,
    )


def _decode_batch(reply: pb.BatchSearchResponse) -> BatchSearchResult:
    ref, plan = decode_ref(reply.snapshot), _plan(reply.plan)
    errors = {
        place: decode_error(result.error) for place, result in enumerate(reply.results) if result.HasField("error")
    }
    return BatchSearchResult(results=_Results(reply, ref, plan, errors), errors=errors, snapshot=ref, plan=plan)


class _Results(Sequence[SearchResult | VicinalError]):
    """The results of a batch, each decoded when it is taken: most callers want arrays of some, not objects of all."""

    def __init__(
        self, reply: pb.BatchSearchResponse, ref: SnapshotRef, plan: Plan, errors: dict[int, VicinalError]
    ) -> None:
        self._reply = reply
        self._ref = ref
        self._plan = plan
        self._errors = errors

    @override
    def __len__(self) -> int:
        return len(self._reply.results)

    @overload
    def __getitem__(self, place: int) -> SearchResult | VicinalError: ...
    @overload
    def __getitem__(self, place: slice) -> list[SearchResult | VicinalError]: ...
    @override
    def __getitem__(self, place: int | slice) -> SearchResult | VicinalError | list[SearchResult | VicinalError]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        return self._errors.get(place) or _result(self._reply.results[place].neighbors, self._ref, self._plan)


def _decode_embed(reply: pb.EmbedResponse) -> EmbedResult:
    errors = {
        place: decode_error(result.error) for place, result in enumerate(reply.results) if result.HasField("error")
    }
    dimension = reply.vectors.dimension
    x_BD: F32Array = np.full((len(reply.results), dimension), np.nan, dtype=np.float32)
    if dimension:
        good = [place for place in range(len(reply.results)) if place not in errors]
        x_BD[good] = decode_vectors(reply.vectors)[[reply.results[place].row for place in good]]
    return EmbedResult(
        vectors=x_BD,
        digests=[result.digest for result in reply.results],
        errors=errors,
        snapshot=decode_ref(reply.snapshot),
    )
