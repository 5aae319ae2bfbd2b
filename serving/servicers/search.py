"""SearchService: Search, BatchSearch, StreamSearch, Embed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import numpy as np

from serving.context import Call, ServingContext
from serving.generation import Generation
from serving.options import decode_page
from serving.search import Searcher
from vicinal.codec import encode_error, encode_vectors
from vicinal.errors import InvalidArgumentError, VicinalError
from vicinal.v1 import search_service_pb2 as pb


class SearchServicer:
    """Answers SearchService.

    Args:
        context: what it works with.
    """

    def __init__(self, context: ServingContext) -> None:
        self._context = context
        self._searcher = Searcher(context.config.limits, context.queries)

    async def Search(self, request: pb.SearchRequest, call: Call) -> pb.SearchResponse:  # noqa: N802 - the RPC
        """Finds the neighbors of one query."""
        name = request.snapshot
        if request.options.page_token:
            name = decode_page(request.options.page_token, snapshot=name).snapshot
        generation = await self._context.generations.take(name)
        if self._is_quick(generation, request):
            return self._searcher.search(generation, request, call)
        return await self._context.run(self._searcher.search, generation, request, call)

    async def BatchSearch(  # noqa: N802 - the name of the RPC
        self, request: pb.BatchSearchRequest, call: Call
    ) -> pb.BatchSearchResponse:
        """Finds the neighbors of many queries."""
        generation = await self._context.generations.take(request.snapshot)
        return await self._context.run(self._searcher.batch, generation, request, call)

    async def StreamSearch(  # noqa: N802 - the name of the RPC
        self, requests: AsyncIterator[pb.StreamSearchRequest], call: Call
    ) -> AsyncIterator[pb.StreamSearchResponse]:
        """Answers queries as they come; so many at a time that a slow reader slows the sender down."""
        window = asyncio.Semaphore(self._context.config.limits.stream_window)
        answers: asyncio.Queue[pb.StreamSearchResponse | None] = asyncio.Queue()

        async def answer(request: pb.StreamSearchRequest) -> None:
            answers.put_nowait(await self._answer(request, call))

        async def read() -> None:
            async with asyncio.TaskGroup() as group:
                async for request in requests:
                    await window.acquire()
                    group.create_task(answer(request))

        reader = asyncio.create_task(read())
        reader.add_done_callback(lambda _: answers.put_nowait(None))
        try:
            while (reply := await answers.get()) is not None:
                yield reply
                window.release()
            await reader
        finally:
            reader.cancel()

    async def Embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:  # noqa: N802 - the name of the RPC
        """Embeds images."""
        generation = await self._context.generations.take(request.snapshot)
        return await self._context.run(self._embed, generation, request, call)

    async def _answer(self, request: pb.StreamSearchRequest, call: Call) -> pb.StreamSearchResponse:
        try:
            found = await self.Search(request.search, call)
        except VicinalError as error:
            return pb.StreamSearchResponse(sequence=request.sequence, error=encode_error(error))
        return pb.StreamSearchResponse(sequence=request.sequence, search=found)

    def _is_quick(self, generation: Generation, request: pb.SearchRequest) -> bool:
        options = request.options
        return (
            generation.quick
            and request.query.WhichOneof("query") in {"vector", "item_id"}
            and not (options.HasField("effort") or options.HasField("target_recall") or options.HasField("filter"))
            and options.neighbor_count <= 100
        )

    def _embed(self, generation: Generation, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        if not request.contents:
            raise InvalidArgumentError("contents is empty, wanted at least one image", field="contents")
        x_BD, errors = self._context.queries.embed(generation, request.contents, call)
        reply = pb.EmbedResponse(snapshot=generation.ref_message)
        good = [place for place, error in enumerate(errors) if error is None]
        rows = dict(zip(good, range(len(good)), strict=True))
        for place, (content, error) in enumerate(zip(request.contents, errors, strict=True)):
            reply.results.append(
                pb.EmbedResult(
                    digest=hashlib.sha256(content).hexdigest(),
                    row=rows.get(place, 0),
                    error=encode_error(error) if error is not None else None,
                )
            )
        reply.vectors.CopyFrom(encode_vectors(np.ascontiguousarray(x_BD[good])))
        return reply
