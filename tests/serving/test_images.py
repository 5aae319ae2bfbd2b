"""Image queries: embedded together, remembered by digest, bounded; cancelled ones are not worked for."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serving.board import Board
from serving.config import LimitsConfig
from serving.context import Call
from serving.generation import Generation, open_generation
from serving.images import ImageEmbedder
from tests.serving.conftest import config, running
from tests.serving.images import make_png
from vicinal.client import Client
from vicinal.encoder import Encoder
from vicinal.errors import DeadlineExceededError, InvalidArgumentError, InvalidImageError
from vicinal.store import Store


@pytest.fixture(scope="module")
def generation(image_store: Store) -> Generation:
    return open_generation(image_store, "snapshots/000001")


def call() -> Call:
    return Call(method="/m", request_id="", client="", deadline_s=float("inf"))


def embedder(board: Board, *, ahead: bool = True, **limits: Any) -> ImageEmbedder:
    return ImageEmbedder(LimitsConfig(**limits), run=asyncio.to_thread, slab=board.slab(0), ahead=ahead)


@pytest.mark.parametrize("ahead", [False, True])
def test_images_of_many_calls_go_through_the_encoder_together(
    generation: Generation, monkeypatch: pytest.MonkeyPatch, *, ahead: bool
) -> None:
    board, slow = Board(1, ["/m"]), threading.Event()
    embed = Encoder.embed

    def slow_embed(encoder: Encoder, x_BCHW: Any) -> Any:
        slow.wait(0.3)
        return embed(encoder, x_BCHW)

    monkeypatch.setattr(Encoder, "embed", slow_embed)
    contents = [make_png(number) for number in range(30)]

    async def run() -> Any:
        images = embedder(board, ahead=ahead)
        return await asyncio.gather(*(images.embed(generation, content, call()) for content in contents))

    found = asyncio.run(run())
    np.testing.assert_allclose(found, generation.base.vectors_ND[:30], atol=1e-5)
    assert board.slab(0)["batched_image_count"] == 30
    assert board.slab(0)["image_batch_count"] < 15


def test_the_same_image_is_embedded_once_and_few_are_remembered(generation: Generation) -> None:
    board = Board(1, ["/m"])

    async def run() -> None:
        images = embedder(board, embedding_cache_count=2)
        for seed in (1, 1, 2, 1, 3, 4, 1):
            await images.embed(generation, make_png(seed), call())

    asyncio.run(run())
    slab = board.slab(0)
    assert (slab["cache_hit_count"], slab["cache_miss_count"], slab["batched_image_count"]) == (2, 5, 5)


@pytest.mark.parametrize("ahead", [False, True])
def test_errors_stay_with_their_image_and_limits_hold(generation: Generation, *, ahead: bool) -> None:
    async def run() -> None:
        board = Board(1, ["/m"])
        images = embedder(board, ahead=ahead, max_images=3, max_image_mib=0.001, max_pixels=1000)
        found = await images.embed_all(generation, [make_png(1), b"text", b""], call())
        assert isinstance(found[0], np.ndarray)
        assert [type(one) for one in found[1:]] == [InvalidImageError, InvalidImageError]
        assert board.slab(0)["batched_image_count"] == 1
        with pytest.raises(InvalidArgumentError, match="the limit is 3"):
            await images.embed_all(generation, [b"x"] * 4, call())
        with pytest.raises(InvalidImageError, match=r"0\.001 MiB"):
            await images.embed(generation, b"x" * 2000, call())
        with pytest.raises(InvalidImageError):
            await images.embed(generation, make_png(1, size=(40, 40)), call())

    asyncio.run(run())


def test_who_waited_past_the_deadline_is_told_and_the_others_are_answered(
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, decode = Board(1, ["/m"]), Encoder.decode

    def slow_decode(encoder: Encoder, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.1)
        return decode(encoder, *args, **kwargs)

    monkeypatch.setattr(Encoder, "decode", slow_decode)

    async def run() -> Any:
        images = embedder(board, ahead=False)
        hurried = replace(call(), deadline_s=time.monotonic() + 0.15)
        waits = [(make_png(1), call()), (make_png(2), hurried), (make_png(3), call())]
        return await asyncio.gather(
            *(images.embed(generation, content, one) for content, one in waits), return_exceptions=True
        )

    found = asyncio.run(run())
    assert isinstance(found[1], DeadlineExceededError)
    np.testing.assert_allclose(found[::2], generation.base.vectors_ND[[1, 3]], atol=1e-5)
    assert board.slab(0)["batched_image_count"] == 2


def test_an_error_of_the_encoder_reaches_every_call_and_the_next_ones_work(
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no memory")

    async def run() -> None:
        images = embedder(Board(1, ["/m"]))
        with monkeypatch.context() as patch:
            patch.setattr(Encoder, "embed", broken)
            found = await asyncio.gather(
                *(images.embed(generation, make_png(n), call()) for n in range(5)), return_exceptions=True
            )
            assert {type(one) for one in found} == {MemoryError}
        assert (await images.embed(generation, make_png(1), call())).shape == (192,)

    asyncio.run(run())


def test_one_thread_does_all_of_torchs_work(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, seen, forward = generation.encoder, set(), Encoder._forward
    assert encoder is not None
    x_BCHW = np.stack([encoder.decode(make_png(number)) for number in range(4)])

    def watched(self: Encoder, x: Any) -> Any:
        seen.add(threading.current_thread().name)
        return forward(self, x)

    monkeypatch.setattr(Encoder, "_forward", watched)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: encoder.embed(x_BCHW), range(8)))
    assert len(seen) == 1
    assert seen != {threading.current_thread().name}
    for x_BD in found:
        np.testing.assert_allclose(x_BD, generation.base.vectors_ND[:4], atol=1e-5)


def test_whoever_hung_up_is_not_worked_for(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    board, started, let_go = Board(1, ["/m"]), threading.Event(), threading.Event()
    embed = Encoder.embed

    def held(encoder: Encoder, x_BCHW: Any) -> Any:
        started.set()
        let_go.wait(5)
        return embed(encoder, x_BCHW)

    monkeypatch.setattr(Encoder, "embed", held)

    async def run() -> None:
        images = embedder(board)
        first = asyncio.create_task(images.embed(generation, make_png(1), call()))
        await asyncio.to_thread(started.wait, 5)
        second = asyncio.create_task(images.embed(generation, make_png(2), call()))
        await asyncio.sleep(0.1)
        second.cancel()
        let_go.set()
        await first
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert board.slab(0)["batched_image_count"] == 1


def test_image_queries_of_many_clients_all_find_their_image(image_store: Store) -> None:
    wrong: list[int] = []

    def ask(address: str, seeds: range) -> None:
        with Client(address) as client:
            wrong.extend(
                s for s in seeds if client.search(make_png(s), neighbor_count=1).item_ids != [f"image-{s:05d}"]
            )

    with running(image_store, config("limits.embedding_cache_count=0")) as (server, address):
        threads = [threading.Thread(target=ask, args=(address, range(n, 40, 4))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.place.slab["batched_image_count"] == 40
    assert not wrong
