"""The native client: compiled when it is wanted, fed with prepared requests, and its replies read again.

``benchmarks/native/serve_load.cc`` is one thread over nghttp2 (``apt-get install g++ libnghttp2-dev``); every caller
has a connection and asks other vectors one after the other, as the callers of ``serve_load.py`` do.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serve_peers import PG, pg_query, pg_vector, redis_words
from benchmarks.serve_servers import Running
from vicinal.codec import encode_vector
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2

SOURCE = Path(__file__).parent / "native" / "serve_load.cc"
SPEAKS = {"vicinal": "grpc", "redis": "redis", "pgvector": "postgres"}
"""The servers that it can ask, and how."""
_PREAMBLE = 2**32 - 1


def compiled(folder: Path) -> tuple[Path | None, str]:
    """Returns the program, or None and why there is none."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None, "no C++ compiler: apt-get install g++ libnghttp2-dev"
    program = folder / "serve_load"
    words = [compiler, "-std=c++17", "-O2", "-o", str(program), SOURCE.name, "-lnghttp2"]
    # What it prints is published: it names no folder of this machine.
    done = subprocess.run(words, cwd=SOURCE.parent, capture_output=True, text=True, check=False)
    return (program, "") if done.returncode == 0 else (None, f"not compiled: {done.stderr.strip()[:200]}")


def requests(peer: str, x_QD: np.ndarray, *, neighbors: int, effort: int, operator: str = "<->") -> bytes:
    """Returns the records of requests, one for each query, as the program reads them.

    Args:
        peer: one of ``SPEAKS``.
        x_QD: queries, float32.
        neighbors: wanted of each.
        effort: length of the search list; 0 leaves it to the server.
        operator: of pgvector, for its metric.
    """
    records = [(place, _request(peer, x_D, neighbors, effort)) for place, x_D in enumerate(x_QD)]
    if peer == "pgvector":
        prepare = _pg(b"P", b"s\0" + pg_query(operator, neighbors).encode() + b"\0\0\0") + _pg(b"S")
        effort_set = _pg(b"Q", f"SET hnsw.ef_search = {effort or 64}".encode() + b"\0")
        records = [(_PREAMBLE, effort_set), (_PREAMBLE, prepare), *records]
    return b"".join(place.to_bytes(4, "little") + len(raw).to_bytes(4, "little") + raw for place, raw in records)


def _request(peer: str, x_D: np.ndarray, neighbors: int, effort: int) -> bytes:
    if peer == "vicinal":
        options = types_pb2.SearchOptions(neighbor_count=neighbors)
        if effort:
            options.effort = effort
        request = pb.SearchRequest(query=types_pb2.Query(vector=encode_vector(x_D)), options=options)
        raw: bytes = request.SerializeToString()
        return raw
    if peer == "redis":
        words = [
            w if isinstance(w, bytes) else str(w).encode() for w in redis_words(x_D, neighbors=neighbors, effort=effort)
        ]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    vector = pg_vector(x_D)
    bind = b"\0s\0" + b"\0\1\0\1" + b"\0\1" + len(vector).to_bytes(4, "big") + vector + b"\0\0"
    return _pg(b"B", bind) + _pg(b"E", b"\0\0\0\0\0") + _pg(b"S")


def _pg(kind: bytes, content: bytes = b"") -> bytes:
    return kind + (len(content) + 4).to_bytes(4, "big") + content


def found(peer: str, raw: bytes) -> list[str]:
    """Returns the ids in a reply."""
    if peer == "vicinal":
        return list(pb.SearchResponse.FromString(raw).neighbors.item_ids)
    if peer == "redis":
        lines = raw.split(b"\r\n")
        return [line.decode() for line in lines[3::2]]
    ids, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at + 1 : at + 5], "big")
        if raw[at : at + 1] == b"D":
            ids.append(raw[at + 11 : at + 1 + size].decode())
        at += 1 + size
    return ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How a server is asked."""

    callers: int
    """Connections."""
    seconds: float
    """For so long."""
    rate: float
    """Queries a second of all callers together; 0: each asks again when it has its reply."""


def ask(program: Path, peer: str, running: Running, records: Path, load: Load) -> dict[str, Any]:
    """Asks a server; returns what ``serve_load.py`` returns.

    Raises:
        OSError: the program failed, or a request did.
    """
    path = {"vicinal": "/vicinal.v1.SearchService/Search", "pgvector": PG}.get(peer, "-")
    replies = records.with_suffix(".replies")
    words = [*running.prefix, str(program), SPEAKS[peer], running.address, path, str(records)]
    words += [str(load.callers), str(load.seconds), str(load.rate), str(replies)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
    result: dict[str, Any] = json.loads(done.stdout)
    if result["failures"]:
        raise OSError(f"{peer}: {result['failures']} of {result['count']} requests failed")
    raw, at, ids = replies.read_bytes(), 0, {}
    while at < len(raw):
        place, size = (int.from_bytes(raw[at + n : at + n + 4], "little") for n in (0, 4))
        ids[str(place)] = found(peer, raw[at + 8 : at + 8 + size])
        at += 8 + size
    return {**result, "found": ids}
