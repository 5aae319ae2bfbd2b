"""The hot path: plain vector and item queries, answered with one call of the index and hand-made bytes.

Most calls are a vector and a neighbor count. For those nothing is built that is thrown away: ids go
from the memory-mapped item table into the reply as bytes, scores as they are. Tests hold every reply
equal to what protobuf makes of the general path's message.
"""

from binascii import b2a_base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from index.live import Searchable
from index.live_items import LiveItems
from serving.config import LimitsConfig
from serving.generation import Generation
from serving.queries import row_of
from vicinal.codec import decode_vector
from vicinal.errors import DimensionMismatchError, FingerprintMismatchError, InvalidArgumentError
from vicinal.item_table import BATCH_ROWS, ItemTable
from vicinal.types import F32Array, I64Array, Neighbors
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2

_MAX_ID_BYTES = 1024
_DEFAULT_COUNT = 10


def varint(number: int) -> bytes:
    """Returns an unsigned number as protobuf writes it."""
    pieces = bytearray()
    while number > 0x7F:
        pieces.append(number & 0x7F | 0x80)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)


_VARINTS = [varint(number) for number in range(1 << 14)]
_ID_PREFIXES = [b"\n" + _VARINTS[length] for length in range(_MAX_ID_BYTES + 1)]


def _length(number: int) -> bytes:
    return _VARINTS[number] if number < len(_VARINTS) else varint(number)


class IdBytes:
    """The ids of a snapshot as bytes, straight from the memory-mapped item table.

    Args:
        items: the table.
    """

    def __init__(self, items: ItemTable) -> None:
        self._offsets: list[npt.NDArray[np.int32]] = []
        self._data: list[memoryview] = []
        for chunk in items.column("item_id").chunks:
            _, offsets, data = chunk.buffers()
            assert offsets is not None
            assert not chunk.offset, "the table is read as it was written"
            self._offsets.append(np.frombuffer(memoryview(offsets), dtype=np.int32, count=len(chunk) + 1))
            self._data.append(memoryview(data) if data is not None else memoryview(b""))

    def pieces(self, rows_M: I64Array) -> list[bytes | memoryview]:
        """Returns for each row the head of a field ``item_ids`` and its content, one after the other.

        Args:
            rows_M: rows, int64, all valid.
        """
        if len(self._data) == 1:
            offsets, data = self._offsets[0], self._data[0]
            starts, ends = offsets[rows_M].tolist(), offsets[rows_M + 1].tolist()
            contents = [data[start:end] for start, end in zip(starts, ends, strict=True)]
        else:
            places = zip((rows_M // BATCH_ROWS).tolist(), (rows_M % BATCH_ROWS).tolist(), strict=True)
            contents = [self._content(chunk, place) for chunk, place in places]
        pieces: list[bytes | memoryview] = [b""] * (2 * len(contents))
        pieces[0::2] = [_ID_PREFIXES[len(content)] for content in contents]
        pieces[1::2] = contents
        return pieces

    def _content(self, chunk: int, place: int) -> memoryview:
        offsets = self._offsets[chunk]
        return self._data[chunk][int(offsets[place]) : int(offsets[place + 1])]


class LiveIdBytes(IdBytes):
    """The ids of a snapshot and of the items that came after it.

    Args:
        items: the items.
    """

    def __init__(self, items: LiveItems) -> None:
        super().__init__(items.table)
        self._first = items.table.count
        self._items = items

    @override
    def pieces(self, rows_M: I64Array) -> list[bytes | memoryview]:
        """Returns for each row the head of a field ``item_ids`` and its content; see ``IdBytes``."""
        old_M = rows_M < self._first
        if old_M.all():
            return super().pieces(rows_M)
        pieces: list[bytes | memoryview] = []
        old = iter(super().pieces(rows_M[old_M]))
        for row in rows_M.tolist():
            if row < self._first:
                pieces += (next(old), next(old))
            else:
                content = self._items.added[row - self._first].item_id.encode()
                pieces += (_ID_PREFIXES[len(content)], content)
        return pieces


class FastPath:
    """Answers plain queries of one generation.

    Args:
        generation: what answers.
        limits: the limits of the server.
    """

    def __init__(self, generation: Generation, limits: LimitsConfig) -> None:
        self._snapshot: Searchable = generation.snapshot
        self._name = generation.ref.name
        self._own = ("", generation.ref.fingerprint)
        self._ref = pb.SearchResponse(snapshot=generation.ref_message).SerializeToString()
        self._limits = limits
        items = generation.snapshot.items
        self._ids = LiveIdBytes(items) if isinstance(items, LiveItems) else IdBytes(items)
        self._vectors_ND = generation.base.vectors_ND if generation.snapshot is generation.base else None
        self._plans: dict[int, bytes] = {}
        self._token_tail = f'"snapshot":"{self._name}","what":"search"}}'

    def search(self, request: pb.SearchRequest) -> bytes:
        """Answers Search for a request that ``is_plain``.

        Args:
            request: the message.

        Returns:
            The serialized SearchResponse.

        Raises:
            VicinalError: as the general path raises it.
        """
        count = self._count(request.options, 1)
        x_QD, own_row = self._vector(request.query)
        found = self._snapshot.search(x_QD, neighbor_count=count + (own_row >= 0))
        rows_K, scores_K = found.rows_QK[0, : found.counts_Q[0]], found.scores_QK[0, : found.counts_Q[0]]
        if own_row >= 0:
            kept_K = np.flatnonzero(rows_K != own_row)[:count]
            rows_K, scores_K = rows_K[kept_K], scores_K[kept_K]
        return self._reply(rows_K, scores_K, count)

    def many(self, queries: Sequence[types_pb2.Query], *, options: types_pb2.SearchOptions) -> list[bytes]:
        """Answers several vector queries with one call of the index.

        Args:
            queries: vectors.
            options: plain options.

        Returns:
            A serialized SearchResponse for each.

        Raises:
            VicinalError: one of them is wrong; ask for each alone to learn which.
        """
        neighbor_count = self._count(options, len(queries))
        x_QD = np.concatenate([self._vector(query)[0] for query in queries])
        found = self._snapshot.search(x_QD, neighbor_count=neighbor_count)
        rows_QK, scores_QK, counts = found.rows_QK, found.scores_QK, found.counts_Q.tolist()
        return [
            self._reply(rows_QK[place, :count], scores_QK[place, :count], neighbor_count)
            for place, count in enumerate(counts)
        ]

    def _reply(self, rows_K: I64Array, scores_K: F32Array, count: int) -> bytes:
        neighbors = self._neighbors(self._ids.pieces(rows_K), scores_K.tobytes())
        reply = b"".join((b"\n", _length(len(neighbors)), neighbors, self._ref, self._plan(count)))
        if len(rows_K) < count:
            return reply
        return reply + self._token(len(rows_K), int(rows_K[-1]), float(scores_K[-1]))

    def batch(self, found: Neighbors, *, neighbor_count: int) -> bytes:
        """Encodes BatchSearch for vectors that were all right.

        Args:
            found: the neighbors.
            neighbor_count: neighbors that were asked for.

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
            result = _length(len(neighbors))
            reply += (b"\n", _length(len(neighbors) + len(result) + 1), b"\n", result, neighbors)
        return b"".join((*reply, self._ref, self._plan(neighbor_count)))

    def vectors(self, x_QD: F32Array, message: types_pb2.SearchOptions) -> tuple[Neighbors, int]:
        """Searches for a batch of vectors with plain options.

        Args:
            x_QD: float32, shape (Q, D).
            message: the options.

        Returns:
            The neighbors, and how many were asked for.

        Raises:
            InvalidVectorError: a vector is wrong; the general path says which.
            InvalidArgumentError: neighbor_count is out of range.
        """
        count = self._count(message, len(x_QD))
        return self._snapshot.search(x_QD, neighbor_count=count), count

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
        return b"".join((*pieces, b"\x12", _length(len(scores)), scores))

    def _plan(self, count: int) -> bytes:
        # What a plan says depends on the count alone here: many neighbors are cheaper to find exactly.
        plan = self._plans.get(count)
        if plan is None:
            snapshot = self._snapshot
            effort = snapshot.default_effort
            is_exact = snapshot.is_exact(count, effort)
            message = pb.SearchPlan(
                strategy="exact" if is_exact else "index",
                effort=0 if is_exact else effort,
                expected_recall=1.0 if is_exact else snapshot.expected_recall(effort),
            )
            plan = self._plans[count] = pb.SearchResponse(plan=message).SerializeToString()
        return plan

    def _token(self, offset: int, row: int, score: float) -> bytes:
        text = f'{{"offset":{offset},"row":{row},"score":{score!r},{self._token_tail}'
        token = b2a_base64(text.encode(), newline=False).translate(_URL_SAFE)
        return b'"' + _length(len(token)) + token


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def is_plain(options: types_pb2.SearchOptions) -> bool:
    """Returns whether options say nothing but how many neighbors are wanted."""
    fields = options.ListFields()
    return not fields or (len(fields) == 1 and fields[0][0].number == 1)
