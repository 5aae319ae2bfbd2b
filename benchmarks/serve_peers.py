"""The peers of the server: how each is started, filled and asked, with its own client.

Chroma and milvus-lite come from PyPI; Redis must be a server with the search module that is already
running (``--redis HOST:PORT``). Their packages are wanted on the machine that runs the benchmark
alone, in an environment of their own: ``--peer-python PATH``.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_BATCH = 1000


def connect(peer: str, address: str, *, neighbors: int, effort: int) -> Callable[[np.ndarray], list[str]]:
    """Returns what asks a peer for the ids of the neighbors of a vector."""
    host, _, port = address.rpartition(":")
    if peer == "chroma":
        chromadb: Any = importlib.import_module("chromadb")
        collection = chromadb.HttpClient(host=host, port=int(port)).get_collection("vicinal")
        return lambda x_D: list(collection.query([x_D.tolist()], n_results=neighbors, include=[])["ids"][0])
    if peer == "milvus-lite":
        milvus: Any = importlib.import_module("pymilvus").MilvusClient(f"http://{address}")
        params = {"params": {"ef": effort or 64}}
        return lambda x_D: [
            str(hit["id"])
            for hit in milvus.search("vicinal", data=[x_D.tolist()], limit=neighbors, search_params=params)[0]
        ]
    redis: Any = importlib.import_module("redis")
    client = redis.Redis(host=host, port=int(port))
    knn = f"*=>[KNN {neighbors} @v $q EF_RUNTIME {effort or 64}]"
    words: list[Any] = ["DIALECT", 2, "NOCONTENT", "LIMIT", 0, neighbors, "PARAMS", 2, "q"]
    return lambda x_D: [
        key.decode() for key in client.execute_command("FT.SEARCH", "vicinal", knn, *words, x_D.tobytes())[1:]
    ]


def fill(peer: str, address: str, x_ND: np.ndarray, *, metric: str) -> None:
    """Puts vectors into a peer under the ids ``"0"``, ``"1"``, ..."""
    host, _, port = address.rpartition(":")
    names = [str(row) for row in range(len(x_ND))]
    starts = range(0, len(x_ND), _BATCH)
    if peer == "chroma":
        chromadb: Any = importlib.import_module("chromadb")
        space = {"hnsw": {"space": "cosine" if metric == "cosine" else "l2", "ef_search": 100, "max_neighbors": 16}}
        collection = chromadb.HttpClient(host=host, port=int(port)).create_collection("vicinal", configuration=space)
        for start in starts:
            collection.add(ids=names[start : start + _BATCH], embeddings=x_ND[start : start + _BATCH].tolist())
    elif peer == "milvus-lite":
        milvus: Any = importlib.import_module("pymilvus").MilvusClient(f"http://{address}")
        milvus.create_collection(
            "vicinal", dimension=x_ND.shape[1], metric_type="COSINE" if metric == "cosine" else "L2"
        )
        for start in starts:
            rows = [{"id": row, "vector": x_ND[row].tolist()} for row in range(start, min(start + _BATCH, len(x_ND)))]
            milvus.insert("vicinal", rows)
    else:
        redis: Any = importlib.import_module("redis")
        client = redis.Redis(host=host, port=int(port))
        kind = ["TYPE", "FLOAT32", "DIM", x_ND.shape[1], "DISTANCE_METRIC", "COSINE" if metric == "cosine" else "L2"]
        client.execute_command("FT.CREATE", "vicinal", "SCHEMA", "v", "VECTOR", "HNSW", 6, *kind)
        for start in starts:
            pipeline = client.pipeline(transaction=False)
            for row in range(start, min(start + _BATCH, len(x_ND))):
                pipeline.hset(names[row], mapping={"v": x_ND[row].tobytes()})
            pipeline.execute()


def start(peer: str, directory: Path, port: int, *, python: str) -> "subprocess.Popen[bytes] | None":
    """Starts the server of a peer on loopback, and returns its process; None where it must be running already."""
    if peer == "chroma":
        chroma = str(Path(python).parent / "chroma")
        words = [chroma, "run", "--host", "127.0.0.1", "--port", str(port), "--path", str(directory / "chroma")]
    elif peer == "milvus-lite":
        milvus = str(Path(python).parent / "milvus-lite")
        words = [milvus, "server", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(directory / "milvus")]
    else:
        return None
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    """Fills a peer from a file of vectors, in the environment that has its client."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer")
    parser.add_argument("address")
    parser.add_argument("vectors", type=Path)
    parser.add_argument("metric")
    arguments = parser.parse_args()
    x_ND = np.load(arguments.vectors, allow_pickle=False)
    until = time.monotonic() + 60
    while True:
        try:
            fill(arguments.peer, arguments.address, x_ND, metric=arguments.metric)
            break
        except Exception as error:  # noqa: BLE001 - whatever its client raises while it starts
            if time.monotonic() > until:
                sys.exit(f"{arguments.peer} cannot be filled: {type(error).__name__}: {error}")
            time.sleep(0.5)
    print(json.dumps({"count": len(x_ND)}))


if __name__ == "__main__":
    main()
