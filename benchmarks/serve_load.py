"""Callers of a server, in a process of their own: python -m benchmarks.serve_load --help. Writes one JSON file.

Every caller asks one query after the other, from its own place in the queries; the clock starts when
all are connected and warm.
"""

import argparse
import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serve_peers import NAMES, AskMany

PIPELINED = 100
"""Queries that a caller puts into one pipeline of Redis."""


def main() -> None:
    """Runs the callers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, choices=["vicinal", *NAMES])
    parser.add_argument("--mode", default="unary", choices=["unary", "stream", "batch", "pipeline"])
    parser.add_argument("--address", required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="file of the result, JSON")
    parser.add_argument("--callers", type=int, default=1)
    help_text = "of one client that the callers share; 0: a client each; ours alone"
    parser.add_argument("--connections", type=int, default=0, help=help_text)
    help_text = "ask from threads that share one blocking client; ours alone"
    parser.add_argument("--threads", action="store_true", help=help_text)
    parser.add_argument("--ca", type=Path, help="authority of a server under TLS, PEM; ours alone")
    parser.add_argument("--grpc", action="store_true", help="with --ca: by gRPC's own client")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--neighbors", type=int, default=10)
    parser.add_argument("--effort", type=int, default=0)
    arguments = parser.parse_args()
    x_QD = np.load(arguments.queries, allow_pickle=False)
    ours = arguments.peer == "vicinal"
    if ours and not arguments.threads:
        # Our client at its best, as the peers' theirs.
        from serving.worker import install_event_loop

        install_event_loop()
    result = asyncio.run(_vicinal(arguments, x_QD)) if ours and not arguments.threads else _threads(arguments, x_QD)
    # Not on the standard output: the peers' clients write there too, and may end the process before it is drained.
    arguments.output.write_text(json.dumps(result))


class _Callers:
    """The callers of our server."""

    def __init__(self, arguments: argparse.Namespace, x_QD: np.ndarray) -> None:
        self.arguments = arguments
        self.x_QD = x_QD
        self.options: dict[str, Any] = {"neighbor_count": arguments.neighbors}
        if arguments.effort:
            self.options["effort"] = arguments.effort
        self.latencies: list[float] = []
        self.found: dict[int, list[str]] = {}
        self.count = 0

    async def unary(self, number: int, client: Any, until: float) -> None:
        place = number * len(self.x_QD) // self.arguments.callers
        while time.perf_counter() < until:
            start = time.perf_counter()
            reply = await client.search(self.x_QD[place], **self.options)
            self.latencies.append(time.perf_counter() - start)
            self.count += 1
            self.found.setdefault(place, reply.item_ids)
            place = (place + 1) % len(self.x_QD)

    async def batch(self, number: int, client: Any, until: float) -> None:  # noqa: ARG002 - one signature for every load
        while time.perf_counter() < until:
            start = time.perf_counter()
            reply = await client.batch_search(self.x_QD, **self.options)
            self.latencies.append(time.perf_counter() - start)
            self.count += len(reply)
            if not self.found:
                self.found = {place: reply[place].item_ids for place in range(len(reply))}

    async def stream(self, number: int, client: Any, until: float) -> None:  # noqa: ARG002 - one signature for every load
        def queries() -> Iterator[np.ndarray]:
            while time.perf_counter() < until:
                yield from self.x_QD[:256]

        place = 0
        async for reply in client.stream_search(queries(), **self.options):
            self.count += 1
            self.found.setdefault(place, reply.item_ids)
            place = (place + 1) % min(256, len(self.x_QD))


async def _vicinal(arguments: argparse.Namespace, x_QD: np.ndarray) -> dict[str, Any]:
    if arguments.grpc:
        # Before gRPC is loaded. Where no authority is named, our client is gRPC's.
        os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(arguments.ca)
    from vicinal.client import AsyncClient, Security

    security = Security(tls=True) if arguments.grpc else Security(ca=str(arguments.ca or ""))
    callers = _Callers(arguments, x_QD)
    if arguments.connections:
        shared = AsyncClient(arguments.address, connections=arguments.connections, security=security)
        clients = [shared] * arguments.callers
    else:
        clients = [AsyncClient(arguments.address, security=security) for _ in range(arguments.callers)]
    await asyncio.gather(*(client.search(x_QD[0], **callers.options) for client in clients))
    run = getattr(callers, arguments.mode)
    start = time.perf_counter()
    await asyncio.gather(*(run(n, client, start + arguments.seconds) for n, client in enumerate(clients)))
    seconds = time.perf_counter() - start
    await asyncio.gather(*(client.close() for client in set(clients)))
    return _result(callers.count, seconds, callers.latencies, callers.found)


def _asking(arguments: argparse.Namespace) -> tuple[AskMany, int]:
    """Connects; returns what asks, and how many queries it takes at once."""
    from benchmarks.serve_peers import connect, connect_pipeline

    options = {"neighbors": arguments.neighbors, "effort": arguments.effort}
    if arguments.mode == "pipeline":
        return connect_pipeline(arguments.address, **options), PIPELINED
    one = connect(arguments.peer, arguments.address, **options)
    return lambda x_BD: [one(x_BD[0])], 1


def _shared(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], tuple[AskMany, int]]:
    """Connects one blocking client of ours; returns what gives it to each thread."""
    from vicinal.client import Client

    client = Client(arguments.address)
    options: dict[str, Any] = {"neighbor_count": arguments.neighbors}
    if arguments.effort:
        options["effort"] = arguments.effort

    def ask(x_BD: np.ndarray) -> list[list[str]]:
        return [client.search(x_BD[0], **options).item_ids]

    return lambda _: (ask, 1)


def _threads(arguments: argparse.Namespace, x_QD: np.ndarray) -> dict[str, Any]:
    latencies: list[float] = []
    found: dict[int, list[str]] = {}
    counts = [0] * arguments.callers
    asking = _shared(arguments) if arguments.threads else _asking
    ready = threading.Barrier(arguments.callers + 1)
    begin = threading.Event()

    def caller(number: int) -> None:
        ask, size = asking(arguments)
        place = number * len(x_QD) // arguments.callers
        ask(x_QD[place : place + size])
        ready.wait()
        begin.wait()
        until = time.perf_counter() + arguments.seconds
        while time.perf_counter() < until:
            start = time.perf_counter()
            replies = ask(x_QD[place : place + size])
            latencies.append(time.perf_counter() - start)
            for row, ids in enumerate(replies):
                found.setdefault(place + row, ids)
            counts[number] += len(replies)
            place = (place + len(replies)) % len(x_QD)

    def guarded(number: int) -> None:
        try:
            caller(number)
        except BaseException:
            # Nobody waits for one that will never be ready.
            ready.abort()
            raise

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(arguments.callers)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    begin.set()
    for thread in threads:
        thread.join()
    return _result(sum(counts), time.perf_counter() - start, latencies, found)


def _result(count: int, seconds: float, latencies: list[float], found: dict[int, list[str]]) -> dict[str, Any]:
    p50_s, p99_s = np.percentile(latencies, [50, 99]) if latencies else (0.0, 0.0)
    return {
        "count": count,
        "queries_per_second": count / seconds,
        "p50_ms": 1000 * float(p50_s),
        "p99_ms": 1000 * float(p99_s),
        "found": {str(place): ids for place, ids in found.items()},
    }


if __name__ == "__main__":
    main()
