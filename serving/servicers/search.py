"""SearchService: Search, BatchSearch, StreamSearch, Embed."""

import contextlib
import hashlib
from collections.abc import AsyncIterator

import numpy as np

from serving.context import Call, ServingContext
from serving.dispatch import SearchDispatcher
from serving.fast import FastPath
from serving.generation import Generation
from serving.images import ImageEmbedder
from serving.options import decode_page
from serving.plain import is_nearly_plain, is_plain
from serving.search import Searcher
from serving.stream import SearchStream
from serving.threads import take_free_cores
from vicinal.codec import decode_vectors, encode_error, encode_vector, encode_vectors
from vicinal.errors import (
    DimensionMismatchError,
    InvalidArgumentError,
    InvalidVectorError,
    NoEncoderError,
    VicinalError,
)
from vicinal.types import F32Array
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2

_CHEAP = frozenset({"vector", "item_id"})


class SearchServicer:
    """Answers SearchService.

    Args:
        context: what it works with.
    """

    def __init__(self, context: ServingContext) -> None:
        self._context = context
        self._searcher = Searcher(context.config.limits, context.queries, context.store)
        self._images = ImageEmbedder(
            context.config.limits, run=context.run, slab=context.place.slab, ahead=context.place.has_spare_core
        )
        self._fast: tuple[Generation | None, FastPath | None] = (None, None)
        self._dispatcher = SearchDispatcher()
        self.quick = {"Search": self.search_plain}
        """What answers an RPC from the bytes of its request alone, by name."""

    def search_plain(self, raw: bytes) -> bytes | None:
        """Answers Search for a vector and a count, as most callers ask; None for every other request."""
        try:
            fast = self._fast_path()
        except VicinalError:
            return None
        return None if fast is None else fast.answer(raw)

    async def Search(self, request: pb.SearchRequest, call: Call) -> pb.SearchResponse | bytes:
        """Finds the neighbors of one query."""
        fast = self._fast_path() if not request.snapshot and is_plain(request.options) else None
        if fast is not None and request.query.WhichOneof("query") in _CHEAP and fast.takes(request.query):
            # Under a millisecond: no thread is worth its switch.
            with call.part("search"):
                return fast.search(request)
        dispatched = self._dispatched(request)
        if dispatched is not None:
            with call.part("search"):
                return await self._dispatcher.search(dispatched, request, call)
        name = request.snapshot
        if request.options.page_token:
            name = decode_page(request.options.page_token, snapshot=name).snapshot
        generation = await self._context.generations.take(name)
        if request.query.WhichOneof("query") == "content":
            request = await self._with_vector(generation, request, call)
            if fast is not None and generation is self._context.generations.current():
                with call.part("search"):
                    return fast.search(request)
        if self._is_quick(generation, request):
            return self._searcher.search(generation, request, call)
        return await self._context.run(self._searcher.search, generation, request, call)

    def _dispatched(self, request: pb.SearchRequest) -> FastPath | None:
        """Returns what answers a query in batches of those that come together; None where that does not pay."""
        if request.snapshot or request.query.WhichOneof("query") != "vector" or not is_plain(request.options):
            return None
        generation = self._context.generations.current()
        base = generation.base
        scans = not generation.quick and base.is_exact(1, base.default_effort)
        if base.is_concurrent and not scans:
            return None
        fast = self._fast_of(generation)
        return fast if fast.takes(request.query) else None

    def close(self) -> None:
        """Ends the thread of the dispatcher."""
        self._dispatcher.close()

    async def BatchSearch(self, request: pb.BatchSearchRequest, call: Call) -> pb.BatchSearchResponse | bytes:
        """Finds the neighbors of many queries."""
        generation = await self._context.generations.take(request.snapshot)
        return await self._context.run(self._batch, generation, request, call)

    async def StreamSearch(self, requests: AsyncIterator[pb.StreamSearchRequest], call: Call) -> AsyncIterator[bytes]:
        """Answers queries as they come; so many at a time that a slow reader slows the sender down."""
        stream = SearchStream(
            search=self.Search, fast_path=self._fast_path, run=self._context.run, limits=self._context.config.limits
        )
        async for reply in stream.answers(requests, call):
            yield reply

    async def Embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        """Embeds images."""
        generation = await self._context.generations.take(request.snapshot)
        if not request.contents:
            raise InvalidArgumentError("contents is empty, wanted at least one image", field="contents")
        if generation.encoder is None:
            raise NoEncoderError(f"{generation.ref.name} has no encoder; publish a snapshot that carries one")
        found = await self._images.embed_all(generation, request.contents, call)
        return await self._context.run(_encode_embeddings, generation, request, found)

    async def _with_vector(self, generation: Generation, request: pb.SearchRequest, call: Call) -> pb.SearchRequest:
        with call.part("embed"):
            x_D = await self._images.embed(generation, request.query.content, call)
        call.check()
        query = types_pb2.Query(vector=encode_vector(x_D))
        return pb.SearchRequest(query=query, options=request.options, snapshot=request.snapshot)

    def _fast_path(self) -> FastPath | None:
        generation = self._context.generations.current()
        if not generation.quick or not generation.base.is_concurrent:
            return None
        return self._fast_of(generation)

    def _fast_of(self, generation: Generation) -> FastPath:
        known, fast = self._fast
        if fast is None or known is not generation:
            fast = FastPath(generation, self._context.config.limits)
            self._fast = (generation, fast)
        return fast

    def _batch(
        self, generation: Generation, request: pb.BatchSearchRequest, call: Call
    ) -> pb.BatchSearchResponse | bytes:
        vectors, count = request.vectors, len(request.queries)
        own = vectors.fingerprint in {"", generation.ref.fingerprint}
        if request.HasField("vectors") and own and not count and is_nearly_plain(request.options):
            x_QD = decode_vectors(vectors)
            if 1 <= len(x_QD) <= self._context.config.limits.max_batch_queries:
                with contextlib.suppress(InvalidVectorError, DimensionMismatchError):
                    fast = self._fast_of(generation)
                    take_free_cores(self._context.place.board)
                    with call.part("search"):
                        found, wanted, effort = fast.vectors(x_QD, request.options)
                    call.check()
                    return fast.batch(found, neighbor_count=wanted, effort=effort)
        # The general path: queries of other forms, further options, and an error for each wrong vector.
        return self._searcher.batch(generation, request, call)

    def _is_quick(self, generation: Generation, request: pb.SearchRequest) -> bool:
        options = request.options
        return (
            generation.quick
            and generation.base.is_concurrent
            and request.query.WhichOneof("query") in _CHEAP
            and not (options.HasField("effort") or options.HasField("target_recall") or options.HasField("filter"))
            and options.neighbor_count <= 100
        )


def _encode_embeddings(
    generation: Generation, request: pb.EmbedRequest, found: list[F32Array | VicinalError]
) -> pb.EmbedResponse:
    reply = pb.EmbedResponse(snapshot=generation.ref_message)
    rows: list[F32Array] = []
    for content, one in zip(request.contents, found, strict=True):
        digest = hashlib.sha256(content).hexdigest()
        if isinstance(one, VicinalError):
            reply.results.append(pb.EmbedResult(digest=digest, error=encode_error(one)))
        else:
            reply.results.append(pb.EmbedResult(digest=digest, row=len(rows)))
            rows.append(one)
    x_BD = np.array(rows, dtype=np.float32).reshape(-1, generation.snapshot.dimension)
    reply.vectors.CopyFrom(encode_vectors(x_BD))
    return reply
