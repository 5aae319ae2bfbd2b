"""Malformed and hostile messages for every RPC, and a run of very many: python -m tests.serving.hostile --help.

Good messages with random fields, the same with bytes changed, cut or repeated, and plain noise. The
server may refuse any of them, but never crash, answer INTERNAL or UNKNOWN, or miss a deadline.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from vicinal.v1 import fewshot_service_pb2, label_service_pb2, search_service_pb2, snapshot_service_pb2

TIMEOUT_S = 10.0
BAD_CODES = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
_TEXTS = ("", "a", "item-00001", "snapshots/000001", "snapshots/../..", "\x00", "é" * 700, "%s%n", "labelSets/x", "-1")
_NUMBERS = (0, 1, -1, 2, 10, 100, 10_000, 2**31 - 1, -(2**31))
_LARGE = (2**63 - 1, -(2**63), 2**53 + 1)
_REALS = (0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e38, 1e-45, 0.5)
_BYTES = (
    b"",
    b"\0" * 64,
    b"\xff" * 64,
    b"\x00\x00\x80\x7f" * 16,
    b"P5 2 2 255\n\0\0\0\0",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a" + b"\xff" * 20,
)


def methods() -> list[MethodDescriptor]:
    """Returns every RPC of the contract."""
    files = (search_service_pb2, snapshot_service_pb2, fewshot_service_pb2, label_service_pb2)
    return [
        method for file in files for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods
    ]


def _scalar(field: Any, rng: random.Random) -> Any:
    makers: dict[int, Callable[[], Any]] = {
        FieldDescriptor.CPPTYPE_STRING: lambda: rng.choice(_BYTES if field.type == field.TYPE_BYTES else _TEXTS),
        FieldDescriptor.CPPTYPE_BOOL: lambda: rng.random() < 0.5,
        FieldDescriptor.CPPTYPE_DOUBLE: lambda: rng.choice(_REALS),
        FieldDescriptor.CPPTYPE_FLOAT: lambda: rng.choice(_REALS),
        FieldDescriptor.CPPTYPE_ENUM: lambda: rng.choice((0, 1, 2, 7, 99)),
        FieldDescriptor.CPPTYPE_INT64: lambda: rng.choice(_NUMBERS + _LARGE),
        FieldDescriptor.CPPTYPE_UINT64: lambda: rng.choice((0, 1, 2**64 - 1)),
        FieldDescriptor.CPPTYPE_UINT32: lambda: rng.choice((0, 1, 2**32 - 1)),
    }
    return makers.get(field.cpp_type, lambda: rng.choice(_NUMBERS))()


def fill(message: Message, rng: random.Random, *, depth: int = 0) -> None:
    """Sets random fields of a message to random, often extreme, values."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < (0.35 if depth else 0.15):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            if depth < 5:
                inner = getattr(message, field.name)
                for one in [inner.add() for _ in range(rng.randrange(3))] if field.is_repeated else [inner]:
                    one.SetInParent()
                    fill(one, rng, depth=depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(_scalar(field, rng) for _ in range(rng.randrange(4)))
        else:
            setattr(message, field.name, _scalar(field, rng))


def hostile(method: MethodDescriptor, rng: random.Random) -> bytes:
    """Returns the bytes of one request."""
    message = GetMessageClass(method.input_type)()
    fill(message, rng)
    raw = bytearray(message.SerializeToString())
    way = rng.random()
    if way < 0.1:
        return rng.randbytes(rng.randrange(200))
    if way < 0.5 and raw:
        for _ in range(rng.randrange(1, 6)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    elif way < 0.6:
        del raw[rng.randrange(len(raw) + 1) :]
    elif way < 0.65:
        raw *= rng.randrange(2, 20)
    return bytes(raw)


async def attack(
    address: str, *, count: int, seed: int, callers: int = 16, spared: frozenset[str] = frozenset()
) -> Counter[str]:
    """Sends hostile requests to every RPC; some may change items and labels, so never to a server that is needed.

    Args:
        address: the server.
        count: requests.
        seed: chooses them.
        callers: calls under way at once.
        spared: RPCs that are left alone, by name.

    Returns:
        How often each outcome was seen; ``late`` counts calls that outlived their deadline.
    """
    seen: Counter[str] = Counter()
    left = iter(range(count))
    known = [method for method in methods() if method.name not in spared]
    async with grpc.aio.insecure_channel(address) as channel:

        async def call() -> None:
            for number in left:
                rng = random.Random(f"{seed}-{number}")
                method = rng.choice(known)
                started = time.monotonic()
                outcome = await _send(channel, method, hostile(method, rng))
                seen[f"{outcome}"] += 1
                if outcome in {code.name for code in BAD_CODES}:
                    print(f"{outcome}: {method.full_name} seed {seed}-{number}", file=sys.stderr)  # noqa: T201
                if time.monotonic() - started > TIMEOUT_S + 2:
                    seen["late"] += 1

        await asyncio.gather(*(call() for _ in range(callers)))
    return seen


async def _send(channel: grpc.aio.Channel, method: MethodDescriptor, raw: bytes) -> str:
    name = f"/{method.containing_service.full_name}/{method.name}"
    sent: Any = iter([raw]) if method.client_streaming else raw
    try:
        if method.client_streaming and method.server_streaming:
            async for _ in channel.stream_stream(name)(sent, timeout=TIMEOUT_S):
                pass
        elif method.server_streaming:
            async for _ in channel.unary_stream(name)(sent, timeout=TIMEOUT_S):
                pass
        elif method.client_streaming:
            await channel.stream_unary(name)(sent, timeout=TIMEOUT_S)
        else:
            await channel.unary_unary(name)(sent, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def main() -> None:
    """Runs against a server that is already there, such as ``vicinal serve``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seen = asyncio.run(attack(arguments.address, count=arguments.count, seed=arguments.seed))
    print(dict(seen))  # noqa: T201 - a script
    bad = sum(seen[code.name] for code in BAD_CODES) + seen["late"]
    sys.exit(f"{bad} bad outcomes" if bad else 0)


if __name__ == "__main__":
    main()
