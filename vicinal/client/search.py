"""The calls of SearchService."""

import functools
from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
from typing_extensions import Unpack, override

from vicinal.client.call import Call
from vicinal.client.query import Options, QueryLike, encode_options, encode_query, search_request
from vicinal.client.results import BatchSearchResult, EmbedResult, Item, Plan, SearchResult
from vicinal.codec import decode_error, decode_ref, decode_value, decode_vectors, encode_vectors
from vicinal.errors import VicinalError
from vicinal.types import F32Array, SnapshotRef
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2

_SERVICE = "/vicinal.v1.SearchService"


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
        request=search_request(query, snapshot, fingerprint, options),
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
