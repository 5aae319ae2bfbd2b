"""Embeds the images of queries: remembered by digest, decoded in threads, put through the encoder together.

An image that finds the encoder idle is decoded and embedded in one go. While one batch is under way, further images
make the next, so nothing ever waits for a batch to fill; they are decoded meanwhile where a core is free for that.
One batch is under way at a time, as a GPU wants it.
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


_MOST_UNDECODED = 32
"""Images that are decoded for one batch while the others wait for it."""


class Run(Protocol):
    """Runs a function in a thread."""

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Awaitable[Any]:
        """Returns what the function returns."""


@dataclass(slots=True, kw_only=True)
class _Waiting:
    encoder: "Encoder"
    content: bytes
    call: Call
    result: "asyncio.Future[F32Array]"
    image: U8Array | None = None
    """What was decoded; None where that is left to the batch."""


class ImageEmbedder:
    """Embeds images for the calls of one worker; used in the event loop alone.

    Args:
        limits: the limits of the server.
        run: runs a function in a thread.
        slab: where hits, misses and batch sizes are counted.
        ahead: whether images are decoded while the encoder is at work on a CPU; it wants a core more.
    """

    def __init__(self, limits: LimitsConfig, *, run: Run, slab: Slab, ahead: bool) -> None:
        self._limits = limits
        self._run = run
        self._slab = slab
        self._ahead = ahead
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
        result = asyncio.get_running_loop().create_future()
        waiting = _Waiting(encoder=encoder, content=content, call=call, result=result)
        if self._is_busy() and (self._ahead or encoder.device.type != "cpu"):
            waiting.image = await self._run(self._decode, encoder, content)
            call.check()
        self._waiting.append(waiting)
        if not self._is_busy():
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

    def _is_busy(self) -> bool:
        return self._pump is not None and not self._pump.done()

    def _decode(self, encoder: "Encoder", content: bytes) -> U8Array:
        max_bytes = int(self._limits.max_image_mib * 2**20)
        return encoder.decode(content, max_pixels=self._limits.max_pixels, max_bytes=max_bytes)

    async def _embed_waiting(self) -> None:
        while self._waiting:
            batch = self._take()
            if not batch:
                continue
            try:
                found = await self._run(self._embed_batch, batch)
            except Exception as error:  # noqa: BLE001 - it is raised in every call that waits
                found = [error] * len(batch)
            good = sum(isinstance(one, np.ndarray) for one in found)
            self._slab.add("image_batch_count", good > 0)
            self._slab.add("batched_image_count", good)
            for waiting, one in zip(batch, found, strict=True):
                with contextlib.suppress(asyncio.InvalidStateError):
                    if isinstance(one, Exception):
                        waiting.result.set_exception(one)
                    else:
                        waiting.result.set_result(one)

    def _embed_batch(self, batch: Sequence[_Waiting]) -> list[F32Array | Exception]:
        """Returns an embedding or an error for each; runs in a thread."""
        found: dict[int, F32Array | Exception] = {}
        images: dict[int, U8Array] = {}
        for place, waiting in enumerate(batch):
            try:
                image = self._decode(waiting.encoder, waiting.content) if waiting.image is None else waiting.image
                waiting.call.check()
                images[place] = image
            except Exception as error:  # noqa: BLE001 - it is raised in the call whose image this is
                found[place] = error
        if images:
            x_BD = batch[0].encoder.embed(np.stack(list(images.values())))
            found.update((place, np.array(x_D)) for place, x_D in zip(images, x_BD, strict=True))
        return [found[place] for place in range(len(batch))]

    def _take(self) -> list[_Waiting]:
        encoder, undecoded = self._waiting[0].encoder, 0
        batch: list[_Waiting] = []
        while self._waiting and self._waiting[0].encoder is encoder and len(batch) < self._limits.max_images:
            waiting = self._waiting.popleft()
            if waiting.result.cancelled():
                # Whoever hung up while the image waited is not worked for.
                continue
            batch.append(waiting)
            undecoded += waiting.image is None
            if undecoded == _MOST_UNDECODED:
                break
        return batch

    def _remember(self, key: tuple[str, bytes], x_D: F32Array) -> None:
        self._known[key] = x_D
        while len(self._known) > self._limits.embedding_cache_count:
            self._known.popitem(last=False)
