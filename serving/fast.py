"""The hot path: plain vector and item queries, answered with one call of the index and hand-made bytes.

Most calls are a vector and a neighbor count. For those nothing is built that is thrown away: ids go
from the memory-mapped item table into the reply as bytes, scores as they are. Tests hold every reply
equal to what protobuf makes of the general path's message.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from index.live import Searchable
from index.search import SearchOptions, resolve_effort
from index.single import SingleSearch
from index.snapshot import Snapshot
from serving.config import LimitsConfig
from serving.generation import Generation
from serving.plain import is_nearly_plain
from serving.queries import row_of
from serving.wire_bytes import IdBytes, length_bytes, url_safe_base64
from vicinal.codec import decode_vector
from vicinal.errors import DimensionMismatchError, FingerprintMismatchError, InvalidArgumentError, VicinalError
from vicinal.types import F32Array, I64Array, Neighbors
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2

_DEFAULT_COUNT = 10
_MAX_SHAPES = 64
_MAX_PLANS = 1024
_FRAME_BYTES = 192


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What requests that differ in nothing but their vector have in common."""

    head: bytes
    """All bytes before those of the vector."""
    tail: bytes
    """All bytes behind them."""
    count: int
    """Neighbors wanted."""
    plan: bytes
    """The field ``plan`` of the reply."""
    single: SingleSearch
    """Searches for the vector."""


class FastPath:
    """Answers plain queries of one generation.

    Args:
        generation: what answers.
        limits: the limits of the server.
    """

    def __init__(self, generation: Generation, limits: LimitsConfig) -> None:
        self._snapshot: Searchable = generation.snapshot
        self._name = generation.ref.name
        self._ref = pb.SearchResponse(snapshot=generation.ref_message).SerializeToString()
        self._limits = limits
        self._ids = IdBytes(generation.snapshot.items)
        self._own = ("", generation.ref.fingerprint)
        self._vectors_ND = generation.base.vectors_ND if generation.snapshot is generation.base else None
        self._plans: dict[tuple[int, int], bytes] = {}
        self._shapes: dict[int, _Shape] = {}
        self._singles: dict[tuple[int, int], SingleSearch | None] = {}
        self._singular = self._single(1, self._snapshot.default_effort) is not None
        # A plain request has less than that besides its vector.
        self._most_bytes = 4 * self._snapshot.dimension + _FRAME_BYTES
        self._token_tail = f'"snapshot":"{self._name}","what":"search"}}'

    def search(self, request: pb.SearchRequest) -> bytes:
        """Answers Search for a request that ``is_nearly_plain``.

        Args:
            request: the message.

        Returns:
            The serialized SearchResponse.

        Raises:
            VicinalError: as the general path raises it.
        """
        count, effort = self._count(request.options, 1), self._effort(request.options)
        x_QD, own_row = self._vector(request.query)
        found = self._snapshot.search(x_QD, neighbor_count=count + (own_row >= 0), effort=effort)
        rows_K, scores_K = found.rows_QK[0, : found.counts_Q[0]], found.scores_QK[0, : found.counts_Q[0]]
        if own_row >= 0:
            kept_K = np.flatnonzero(rows_K != own_row)[:count]
            rows_K, scores_K = rows_K[kept_K], scores_K[kept_K]
        return self._reply(rows_K, scores_K, count, self._plan(count, effort))

    def answer(self, raw: bytes) -> bytes | None:
        """Answers a serialized SearchRequest that is like one before but for its vector; in one thread alone.

        Args:
            raw: the request as it came.

        Returns:
            The serialized SearchResponse; None where ``search`` or the general path must answer, or refuse.
        """
        if not self._singular or len(raw) > self._most_bytes:
            return None
        shape = self._shapes.get(len(raw))
        if shape is None or not (raw.startswith(shape.head) and raw.endswith(shape.tail)):
            shape = self._learn(raw)
            if shape is None:
                return None
        single = shape.single
        if shape.count > self._limits.max_neighbor_count:  # which may have been lowered meanwhile
            return None
        start = len(shape.head)
        single.query[:] = raw[start : start + len(single.query)]
        found = single.search()
        return None if found is None else self._reply(*found, shape.count, shape.plan)

    def _learn(self, raw: bytes) -> _Shape | None:
        """Returns the shape of a plain request for a vector; None when it is another request."""
        try:
            request = pb.SearchRequest.FromString(raw)
            vector, options = request.query.vector, request.options
            if request.snapshot or not vector.packed or not is_nearly_plain(options):
                return None
            x_QD, _ = self._vector(request.query)
            count, effort = self._count(options, 1), self._effort(options)
        except (DecodeError, VicinalError):
            return None
        # Written once more, nothing is there twice: the vector stands where a plain writer puts it.
        single, size = self._single(count, effort), x_QD.nbytes
        if single is None or request.SerializeToString() != raw or sys.byteorder != "little":
            return None
        inner = b"\n" + length_bytes(size)
        middle = b"\x1a" + length_bytes(vector.ByteSize()) + inner
        head = b"\n" + length_bytes(request.query.ByteSize()) + middle
        if not raw.startswith(head):
            return None
        plan = self._plan(count, effort)
        shape = _Shape(head=head, tail=raw[len(head) + size :], count=count, plan=plan, single=single)
        if len(self._shapes) >= _MAX_SHAPES:
            self._shapes.clear()
        self._shapes[len(raw)] = shape
        return shape

    def _single(self, count: int, effort: int) -> SingleSearch | None:
        key = (count, effort)
        if key not in self._singles:
            if len(self._singles) >= _MAX_SHAPES:
                self._singles.clear()
            snapshot = self._snapshot
            self._singles[key] = snapshot.single(count, effort=effort) if isinstance(snapshot, Snapshot) else None
        return self._singles[key]

    def _effort(self, options: types_pb2.SearchOptions) -> int:
        """Returns the effort that nearly plain options ask for."""
        effort = options.effort if options.HasField("effort") else None
        target_recall = options.target_recall if options.HasField("target_recall") else None
        return resolve_effort(self._snapshot, SearchOptions(effort=effort, target_recall=target_recall))

    def many(self, queries: Sequence[types_pb2.Query], *, options: types_pb2.SearchOptions) -> list[bytes]:
        """Answers several vector queries with one call of the index.

        Args:
            queries: vectors.
            options: nearly plain options.

        Returns:
            A serialized SearchResponse for each.

        Raises:
            VicinalError: one of them is wrong; ask for each alone to learn which.
        """
        neighbor_count, effort = self._count(options, len(queries)), self._effort(options)
        x_QD = np.concatenate([self._vector(query)[0] for query in queries])
        found = self._snapshot.search(x_QD, neighbor_count=neighbor_count, effort=effort)
        rows_QK, scores_QK, counts = found.rows_QK, found.scores_QK, found.counts_Q.tolist()
        plan = self._plan(neighbor_count, effort)
        return [
            self._reply(rows_QK[place, :count], scores_QK[place, :count], neighbor_count, plan)
            for place, count in enumerate(counts)
        ]

    def _reply(self, rows_K: I64Array, scores_K: F32Array, count: int, plan: bytes) -> bytes:
        neighbors = self._neighbors(self._ids.pieces(rows_K), scores_K.tobytes())
        reply = b"".join((b"\n", length_bytes(len(neighbors)), neighbors, self._ref, plan))
        if len(rows_K) < count:
            return reply
        return reply + self._token(len(rows_K), int(rows_K[-1]), float(scores_K[-1]))

    def batch(self, found: Neighbors, *, neighbor_count: int, effort: int) -> bytes:
        """Encodes BatchSearch for vectors that were all right.

        Args:
            found: the neighbors.
            neighbor_count: neighbors that were asked for.
            effort: with which they were searched.

        Returns:
            The serialized BatchSearchResponse.
        """
        reply: list[bytes] = []
        width = found.rows_QK.shape[1]
        pieces = self._ids.pieces(found.rows_QK.reshape(-1))
        scores, size = np.ascontiguousarray(found.scores_QK, dtype="<f4").tobytes(), 4 * width
        for place, count in enumerate(found.counts_Q.tolist()):
            start = 2 * width * place
            neighbors = self._neighbors(
                pieces[start : start + 2 * count], scores[size * place : size * place + 4 * count]
            )
            result = length_bytes(len(neighbors))
            reply += (b"\n", length_bytes(len(neighbors) + len(result) + 1), b"\n", result, neighbors)
        return b"".join((*reply, self._ref, self._plan(neighbor_count, effort)))

    def vectors(self, x_QD: F32Array, message: types_pb2.SearchOptions) -> tuple[Neighbors, int, int]:
        """Searches for a batch of vectors with nearly plain options.

        Args:
            x_QD: float32, shape (Q, D).
            message: the options.

        Returns:
            The neighbors, how many were asked for, and the effort.

        Raises:
            InvalidVectorError: a vector is wrong; the general path says which.
            InvalidArgumentError: an option is out of range.
        """
        count, effort = self._count(message, len(x_QD)), self._effort(message)
        return self._snapshot.search(x_QD, neighbor_count=count, effort=effort), count, effort

    def _count(self, options: types_pb2.SearchOptions, query_count: int) -> int:
        count = options.neighbor_count if options.HasField("neighbor_count") else _DEFAULT_COUNT
        limits = self._limits
        if not 1 <= count <= limits.max_neighbor_count:
            raise InvalidArgumentError(
                f"neighbor_count is {count}, wanted 1 to {limits.max_neighbor_count}", field="options.neighbor_count"
            )
        if count * query_count > limits.max_reply_neighbors:
            raise InvalidArgumentError(
                f"{query_count} queries with {count} neighbors each are more than {limits.max_reply_neighbors} "
                "in one reply; send smaller batches",
                field="options.neighbor_count",
            )
        return count

    def takes(self, query: types_pb2.Query) -> bool:
        """Returns whether a query is of the snapshot's own space; others need a bridge, and the general path."""
        return query.vector.fingerprint in self._own

    def _vector(self, query: types_pb2.Query) -> tuple[F32Array, int]:
        if query.HasField("vector"):
            if not self.takes(query):
                raise FingerprintMismatchError("a vector of another encoder goes the general way", field="query.vector")
            x_D = decode_vector(query.vector, field="query.vector")
            if x_D.size != self._snapshot.dimension:
                raise DimensionMismatchError(
                    f"the vector has dimension {x_D.size}, {self._name} has {self._snapshot.dimension}; "
                    "embed with the snapshot's own encoder",
                    field="query.vector",
                )
            return x_D[None], -1
        row = row_of(self._snapshot, query.item_id)
        if self._vectors_ND is not None:
            return self._vectors_ND[row : row + 1], row
        return self._snapshot.vectors_of(np.array([row])), row

    def _neighbors(self, pieces: Sequence[bytes | memoryview], scores: bytes) -> bytes:
        if not scores:
            return b""
        return b"".join((*pieces, b"\x12", length_bytes(len(scores)), scores))

    def _plan(self, count: int, effort: int) -> bytes:
        # What a plan says depends on these alone here: many neighbors are cheaper to find exactly.
        plan = self._plans.get((count, effort))
        if plan is None:
            snapshot = self._snapshot
            is_exact = snapshot.is_exact(count, effort)
            message = pb.SearchPlan(
                strategy="exact" if is_exact else "index",
                effort=0 if is_exact else effort,
                expected_recall=1.0 if is_exact else snapshot.expected_recall(effort),
            )
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[count, effort] = pb.SearchResponse(plan=message).SerializeToString()
        return plan

    def _token(self, offset: int, row: int, score: float) -> bytes:
        text = f'{{"offset":{offset},"row":{row},"score":{score!r},{self._token_tail}'
        token = url_safe_base64(text.encode())
        return b'"' + length_bytes(len(token)) + token
