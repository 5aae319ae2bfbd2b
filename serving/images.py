"""Embeds the images of queries: remembered by digest, decoded in threads, put through the encoder together.

While one batch is in the encoder, further images are decoded and make the next, so nothing ever
waits for a batch to fill. One batch is under way at a time, as a GPU wants it.
"""

import asyncio
import contextlib
import hashlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from serving.board import Slab
from serving.config import LimitsConfig
from serving.context import Call
from serving.generation import Generation
from vicinal.errors import InvalidArgumentError, InvalidImageError, NoEncoderError, VicinalError
from vicinal.types import F32Array, U8Array

if TYPE_CHECKING:
    from vicinal.encoder import Encoder


class Run(Protocol):
    """Runs a function in a thread."""

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Awaitable[Any]:
        """Returns what the function returns."""


@dataclass(slots=True, kw_only=True)
class _Waiting:
    encoder: "Encoder"
    image: U8Array
    result: "asyncio.Future[F32Array]"


class ImageEmbedder:
    """Embeds images for the calls of one worker; used in the event loop alone.

    Args:
        limits: the limits of the server.
        run: runs a function in a thread.
        slab: where hits, misses and batch sizes are counted.
    """

    def __init__(self, limits: LimitsConfig, *, run: Run, slab: Slab) -> None:
        self._limits = limits
        self._run = run
        self._slab = slab
        self._known: OrderedDict[tuple[str, bytes], F32Array] = OrderedDict()
        self._waiting: deque[_Waiting] = deque()
        self._pump: asyncio.Task[None] | None = None

    async def embed(self, generation: Generation, content: bytes, call: Call) -> F32Array:
        """Embeds one image.

        Args:
            generation: whose encoder is used.
            content: the encoded image.
            call: whose deadline is checked between decoding and the encoder.

        Returns:
            float32, shape (D,).

        Raises:
            InvalidImageError: empty, too large, or not an image that can be decoded.
            NoEncoderError: the snapshot carries no encoder.
            DeadlineExceededError: the deadline has passed.
        """
        encoder = self._check(generation, content)
        key = (generation.ref.fingerprint, hashlib.sha256(content).digest())
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            self._slab.add("cache_hit_count")
            return known
        self._slab.add("cache_miss_count")
        image = await self._run(self._decode, encoder, content)
        call.check()
        waiting = _Waiting(encoder=encoder, image=image, result=asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._embed_waiting())
        x_D = await waiting.result
        self._remember(key, x_D)
        return x_D

    async def embed_all(
        self, generation: Generation, contents: Sequence[bytes], call: Call
    ) -> list[F32Array | VicinalError]:
        """Embeds the images of one request.

        Returns:
            An embedding, float32, shape (D,), or an error for each image.

        Raises:
            InvalidArgumentError: more images than the server's limit.
            NoEncoderError: the snapshot carries no encoder.
            DeadlineExceededError: the deadline has passed.
        """
        if len(contents) > self._limits.max_images:
            raise InvalidArgumentError(
                f"{len(contents)} images in one request, the limit is {self._limits.max_images}; send several requests"
            )

        async def one(content: bytes) -> F32Array | VicinalError:
            try:
                return await self.embed(generation, content, call)
            except InvalidImageError as error:
                return error

        return list(await asyncio.gather(*(one(content) for content in contents)))

    def _check(self, generation: Generation, content: bytes) -> "Encoder":
        if generation.encoder is None:
            raise NoEncoderError(f"{generation.ref.name} has no encoder; query by vector or item id", field="content")
        if not content:
            raise InvalidImageError("an image has no bytes", field="content")
        if len(content) > self._limits.max_image_mib * 2**20:
            raise InvalidImageError(
                f"an image has {len(content):,} bytes, the limit is {self._limits.max_image_mib:g} MiB", field="content"
            )
        return generation.encoder

    def _decode(self, encoder: "Encoder", content: bytes) -> U8Array:
        max_bytes = int(self._limits.max_image_mib * 2**20)
        return encoder.decode(content, max_pixels=self._limits.max_pixels, max_bytes=max_bytes)

    async def _embed_waiting(self) -> None:
        while self._waiting:
            batch = self._take()
            if not batch:
                continue
            try:
                x_BD = await self._run(batch[0].encoder.embed, np.stack([waiting.image for waiting in batch]))
            except Exception as error:  # noqa: BLE001 - it is raised in every call that waits
                for waiting in batch:
                    with contextlib.suppress(asyncio.InvalidStateError):
                        waiting.result.set_exception(error)
                continue
            self._slab.add("image_batch_count")
            self._slab.add("batched_image_count", len(batch))
            for waiting, x_D in zip(batch, x_BD, strict=True):
                with contextlib.suppress(asyncio.InvalidStateError):
                    waiting.result.set_result(np.array(x_D))

    def _take(self) -> list[_Waiting]:
        encoder = self._waiting[0].encoder
        batch: list[_Waiting] = []
        while self._waiting and self._waiting[0].encoder is encoder and len(batch) < self._limits.max_images:
            waiting = self._waiting.popleft()
            if not waiting.result.cancelled():
                # Whoever hung up while the image waited is not worked for.
                batch.append(waiting)
        return batch

    def _remember(self, key: tuple[str, bytes], x_D: F32Array) -> None:
        self._known[key] = x_D
        while len(self._known) > self._limits.embedding_cache_count:
            self._known.popitem(last=False)
