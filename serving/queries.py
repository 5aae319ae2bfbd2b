"""Turns the queries of a request into vectors of the generation that answers.

A query is an item of the snapshot, an image, a vector, or examples of those. What is wrong with one
query is that query's error; the others are answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from index.live import Searchable
from serving.bridges import Bridges, Crossing
from serving.config import LimitsConfig
from serving.generation import Generation
from vicinal.errors import (
    DimensionMismatchError,
    InternalError,
    InvalidArgumentError,
    InvalidImageError,
    InvalidVectorError,
    NoEncoderError,
    VicinalError,
)
from vicinal.types import F32Array, I64Array, U8Array
from vicinal.v1 import types_pb2

if TYPE_CHECKING:
    from serving.context import Call

_MAX_EXAMPLES = 1000
_MAX_ID_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The vectors of Q queries."""

    x_QD: F32Array
    """float32, shape (Q, D); finite and, under cosine, not zero where there is no error; else zeros."""
    errors: list[VicinalError | None]
    """What was wrong with each query."""
    own_rows_Q: I64Array
    """Row of the item that was asked about, int64, -1 for queries that are no items."""
    bridged: bool = False
    """Whether a vector came from another encoder's space and was mapped into this one."""

    def raise_first(self) -> None:
        """Raises the first error, if there is any."""
        for error in self.errors:
            if error is not None:
                raise error


class Queries:
    """Resolves queries within the limits of a server.

    Args:
        limits: the limits.
        bridges: map vectors of other encoders. Default: none are taken.
    """

    def __init__(self, limits: LimitsConfig, bridges: Bridges | None = None) -> None:
        self._limits = limits
        self._bridges = bridges

    def is_slow(self, queries: Sequence[types_pb2.Query]) -> bool:
        """Returns whether resolving takes so long that it belongs into a thread (images, examples)."""
        return any(query.WhichOneof("query") in {"content", "examples"} for query in queries)

    def resolve(
        self, generation: Generation, queries: Sequence[types_pb2.Query], call: "Call", *, bridging: bool = False
    ) -> Resolved:
        """Turns queries into vectors.

        Args:
            generation: the snapshot and encoder that answer.
            queries: Q messages; names in errors count from ``queries[0]`` when there are several.
            call: whose deadline is checked before and after the images.
            bridging: take vectors of other encoders, where there is a bridge; else they are errors.

        Raises:
            InvalidArgumentError: more images than the server's limit.
            DeadlineExceededError: the deadline has passed.
        """
        flat, spans = _flatten(queries)
        x_MD = np.zeros((len(flat), generation.snapshot.dimension), dtype=np.float32)
        errors: list[VicinalError | None] = [None] * len(flat)
        rows_M = np.full(len(flat), -1, dtype=np.int64)
        images: list[int] = []
        crossing = Crossing(self._bridges if bridging else None, generation.ref.fingerprint)
        for position, query in enumerate(flat):
            if query.WhichOneof("query") == "content":
                images.append(position)
                continue
            try:
                rows_M[position] = _resolve_cheap(generation, query, x_MD[position], crossing)
            except VicinalError as error:
                errors[position] = error
        self._embed_into(generation, [(place, flat[place].content) for place in images], x_MD, errors, call)
        x_MD = check_vectors(generation, x_MD, errors)
        if spans is None:
            return Resolved(x_QD=x_MD, errors=errors, own_rows_Q=rows_M, bridged=crossing.bridged)
        return replace(_combine(generation, spans, x_MD, errors, rows_M), bridged=crossing.bridged)

    def resolve_vectors(self, generation: Generation, x_QD: F32Array, fingerprint: str) -> Resolved:
        """Does what ``resolve`` does, for many vectors of one encoder.

        Args:
            generation: the snapshot that answers.
            x_QD: vectors, float32.
            fingerprint: of their encoder; empty for the snapshot's own.

        Raises:
            DimensionMismatchError: they have not the dimension of their space.
            FingerprintMismatchError: they are of another encoder, and there is no bridge.
        """
        crossing = Crossing(self._bridges, generation.ref.fingerprint)
        x_QD = crossing.bring(x_QD, fingerprint, field="vectors.fingerprint")
        dimension = generation.snapshot.dimension
        if x_QD.shape[1] != dimension:
            raise DimensionMismatchError(
                f"the vectors have dimension {x_QD.shape[1]}, {generation.ref.name} has {dimension}; "
                "embed with the snapshot's own encoder",
                field="vectors.dimension",
            )
        errors: list[VicinalError | None] = [None] * len(x_QD)
        x_QD = check_vectors(generation, x_QD, errors)
        own_rows_Q = np.full(len(x_QD), -1, dtype=np.int64)
        return Resolved(x_QD=x_QD, errors=errors, own_rows_Q=own_rows_Q, bridged=crossing.bridged)

    def _embed_into(
        self,
        generation: Generation,
        images: list[tuple[int, bytes]],
        x_MD: F32Array,
        errors: list[VicinalError | None],
        call: "Call",
    ) -> None:
        if not images:
            return
        if len(images) > self._limits.max_images:
            raise InvalidArgumentError(
                f"{len(images)} images in one request, the limit is {self._limits.max_images}; send several requests"
            )
        good: list[tuple[int, bytes]] = []
        for place, content in images:
            errors[place] = self._refusal(generation, content)
            if errors[place] is None:
                good.append((place, content))
        decoded: dict[int, U8Array] = {}
        for place, content in good:
            call.check()
            try:
                decoded[place] = self._decode(generation, content)
            except InvalidImageError as error:
                errors[place] = error
        if decoded and generation.encoder is not None:
            call.check()
            x_MD[list(decoded)] = generation.encoder.embed(np.stack(list(decoded.values())))

    def _decode(self, generation: Generation, content: bytes) -> U8Array:
        assert generation.encoder is not None
        max_bytes = int(self._limits.max_image_mib * 2**20)
        return generation.encoder.decode(content, max_pixels=self._limits.max_pixels, max_bytes=max_bytes)

    def _refusal(self, generation: Generation, content: bytes) -> VicinalError | None:
        if generation.encoder is None:
            return NoEncoderError(f"{generation.ref.name} has no encoder; query by vector or item id", field="content")
        if not content:
            return InvalidImageError("an image has no bytes", field="content")
        if len(content) > self._limits.max_image_mib * 2**20:
            return InvalidImageError(
                f"an image has {len(content):,} bytes, the limit is {self._limits.max_image_mib:g} MiB", field="content"
            )
        return None


def check_vectors(generation: Generation, x_QD: F32Array, errors: list[VicinalError | None]) -> F32Array:
    """Returns vectors ready to be searched, and notes an error for each that cannot be.

    Args:
        generation: whose metric counts.
        x_QD: float32, shape (Q, D).
        errors: one entry a row; those already wrong stay.

    Returns:
        float32, shape (Q, D), of unit length under cosine; rows with an error are zero.
    """
    try:
        return generation.snapshot.check_queries(x_QD)
    except InvalidVectorError:
        good_QD = np.zeros(x_QD.shape, dtype=np.float32)
    for row in range(len(x_QD)):
        try:
            good_QD[row] = generation.snapshot.check_queries(x_QD[row : row + 1])[0]
        except InvalidVectorError as error:
            if errors[row] is None:
                errors[row] = InvalidVectorError(error.message, field="query")
    return good_QD


def _resolve_cheap(generation: Generation, query: types_pb2.Query, out_D: F32Array, crossing: Crossing) -> int:
    kind = query.WhichOneof("query")
    if kind == "vector":
        x_D = crossing.own(query.vector, field="query.vector")
        if x_D.size != out_D.size:
            raise DimensionMismatchError(
                f"the vector has dimension {x_D.size}, {generation.ref.name} has {out_D.size}; "
                "embed with the snapshot's own encoder",
                field="query.vector",
            )
        out_D[:] = x_D
        return -1
    if kind == "item_id":
        row = row_of(generation.snapshot, query.item_id)
        out_D[:] = generation.snapshot.vectors_of(np.array([row]))[0]
        return row
    if kind is None:
        raise InvalidArgumentError("the query is empty; set item_id, content, vector or examples", field="query")
    raise InternalError(f"a query of kind {kind} is resolved elsewhere")


def row_of(snapshot: Searchable, item_id: str) -> int:
    """Returns the row of the item that a query names.

    Raises:
        InvalidArgumentError: the id is empty or too long.
        ItemNotFoundError: no item has it.
    """
    size = len(item_id.encode())
    if not 1 <= size <= _MAX_ID_BYTES:
        raise InvalidArgumentError(f"an item id has 1 to {_MAX_ID_BYTES} bytes, got {size}", field="query.item_id")
    return snapshot.items.row(item_id)


_Spans = list[tuple[list[int], list[int]] | VicinalError]


def _flatten(queries: Sequence[types_pb2.Query]) -> tuple[list[types_pb2.Query], _Spans | None]:
    if not any(query.HasField("examples") for query in queries):
        return list(queries), None
    flat: list[types_pb2.Query] = []
    spans: _Spans = []
    for query in queries:
        if query.HasField("examples"):
            examples = query.examples
            refusal = _refuse_examples(examples)
            if refusal is not None:
                spans.append(refusal)
                continue
            start, middle = len(flat), len(flat) + len(examples.positives)
            flat += [*examples.positives, *examples.negatives]
            spans.append((list(range(start, middle)), list(range(middle, len(flat)))))
        else:
            spans.append(([len(flat)], []))
            flat.append(query)
    return flat, spans


def _refuse_examples(examples: types_pb2.Examples) -> VicinalError | None:
    for name, members, least in (("positives", examples.positives, 1), ("negatives", examples.negatives, 0)):
        field = f"query.examples.{name}"
        if not least <= len(members) <= _MAX_EXAMPLES:
            return InvalidArgumentError(
                f"{name} has {len(members)} queries, wanted {least} to {_MAX_EXAMPLES}", field=field
            )
        if any(member.HasField("examples") for member in members):
            return InvalidArgumentError("examples cannot hold examples; flatten them", field=field)
    return None


def _combine(
    generation: Generation, spans: _Spans, x_MD: F32Array, errors: list[VicinalError | None], rows_M: I64Array
) -> Resolved:
    x_QD = np.zeros((len(spans), x_MD.shape[1]), dtype=np.float32)
    combined: list[VicinalError | None] = []
    rows_Q = np.full(len(spans), -1, dtype=np.int64)
    for place, span in enumerate(spans):
        if isinstance(span, VicinalError):
            combined.append(span)
            continue
        positives, negatives = span
        combined.append(next((errors[m] for m in (*positives, *negatives) if errors[m] is not None), None))
        x_QD[place] = x_MD[positives].mean(axis=0)
        if negatives:
            x_QD[place] -= x_MD[negatives].mean(axis=0)
        if len(positives) == 1 and not negatives:
            rows_Q[place] = rows_M[positives[0]]
    x_QD = check_vectors(generation, x_QD, combined)
    return Resolved(x_QD=x_QD, errors=combined, own_rows_Q=rows_Q)
