"""Milvus: the vectors of a snapshot as one collection of a server, found through an alias by others.

    collection vicinal_<32 hex>     row INT64 (primary key, row of the snapshot), item_id VARCHAR, vector
    alias      vicinal_active       the collection of the snapshot that was published last

A collection is written once and never changed, as a snapshot is. The snapshot's own directory keeps its
vectors, items and encoder, and ``milvus.json``, which names server and collection.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from index.engines.milvus_place import Place, read_place
from vicinal.errors import (
    CorruptArtifactError,
    FailedPreconditionError,
    UnavailableError,
)
from vicinal.types import F32Array, I64Array, Metric

if TYPE_CHECKING:
    from pymilvus import MilvusClient

URI_VARIABLE, TOKEN_VARIABLE = "VICINAL_MILVUS_URI", "VICINAL_MILVUS_TOKEN"
MOST_NEIGHBORS = 16_384
"""Neighbours of one query at most; whoever wants more compares with every item."""
_MOST_ID_BYTES = 1024
_INSERT_BYTES = 1 << 24
_QUERY_BYTES = 1 << 24
_MOST_FOUND = 1 << 20
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What Milvus builds over the vectors."""

    index_type: str
    """Milvus's name, such as ``HNSW``."""
    params: Mapping[str, int]
    """Its build parameters."""


@contextlib.contextmanager
def connected(uri: str, *, timeout_s: float = _TIMEOUT_S) -> Iterator["MilvusClient"]:
    """Connects to a server for a while; see ``connect``."""
    client = connect(uri, timeout_s=timeout_s)
    try:
        with _guarded(uri):
            yield client
    finally:
        client.close()


def connect(uri: str, *, timeout_s: float = _TIMEOUT_S) -> "MilvusClient":
    """Connects to a server; the secret is in ``VICINAL_MILVUS_TOKEN``, where it wants one.

    Raises:
        FailedPreconditionError: pymilvus is not installed.
        UnavailableError: the server does not answer, or refuses.
    """
    try:
        from pymilvus import MilvusClient  # noqa: PLC0415 - an extra, and seconds to import
    except ModuleNotFoundError as error:
        raise FailedPreconditionError("kind milvus needs pymilvus; run: pip install 'vicinal[milvus]'") from error
    with _guarded(uri):
        return MilvusClient(uri, token=os.environ.get(TOKEN_VARIABLE, ""), timeout=timeout_s)


@contextlib.contextmanager
def _guarded(uri: str) -> Iterator[None]:
    from pymilvus.exceptions import MilvusException  # noqa: PLC0415 - see connect

    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        said = str(error.message if isinstance(error, MilvusException) else error).strip()
        reason = said.splitlines()[0][:300] if said else type(error).__name__
        raise UnavailableError(f"the Milvus server at {uri} failed: {reason}") from error


def write_collection(
    vectors_ND: F32Array, *, item_ids: Sequence[str], metric: Metric, index: Index, place: Place
) -> None:
    """Writes a collection, builds its index and loads it; what fails leaves none behind.

    Args:
        vectors_ND: vectors, float32, of unit length under cosine.
        item_ids: ids of the rows; empty leaves them out.
        metric: how closeness is computed.
        index: what to build.
        place: where to.

    Raises:
        UnavailableError: the server failed or is out of space; the collection was dropped, as far as it lets us.
    """
    with connected(place.uri) as client:
        try:
            _create(client, place.collection, dimension=vectors_ND.shape[1], with_ids=bool(item_ids))
            _insert(client, place.collection, vectors_ND, item_ids)
            client.flush(place.collection)
            wanted = client.prepare_index_params()
            wanted.add_index(
                "vector", index_type=index.index_type, metric_type=metric_name(metric), params=dict(index.params)
            )
            client.create_index(place.collection, wanted)
            client.load_collection(place.collection)
        except BaseException:
            with contextlib.suppress(Exception):
                client.drop_collection(place.collection)
            raise


def _create(client: "MilvusClient", name: str, *, dimension: int, with_ids: bool) -> None:
    from pymilvus import DataType, MilvusClient  # noqa: PLC0415 - see connect

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("row", DataType.INT64, is_primary=True)
    if with_ids:
        schema.add_field("item_id", DataType.VARCHAR, max_length=_MOST_ID_BYTES)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    client.create_collection(name, schema=schema)


def _insert(client: "MilvusClient", name: str, vectors_ND: F32Array, item_ids: Sequence[str]) -> None:
    step = max(1, _INSERT_BYTES // (4 * vectors_ND.shape[1] + _MOST_ID_BYTES // 16))
    for start in range(0, len(vectors_ND), step):
        block_ND = np.ascontiguousarray(vectors_ND[start : start + step])
        rows: list[dict[str, Any]] = [{"row": start + at, "vector": x_D} for at, x_D in enumerate(block_ND)]
        for row, item_id in zip(rows, item_ids[start : start + step], strict=False):
            row["item_id"] = item_id
        client.insert(name, rows)


def metric_name(metric: Metric) -> str:
    """Returns Milvus's name of a metric; vectors of unit length make cosine an inner product."""
    return "L2" if metric is Metric.L2 else "IP"


def point_alias(place: Place) -> None:
    """Points the alias at a collection; it points at one at any time.

    Raises:
        UnavailableError: the server failed; the alias may point where it did.
    """
    with connected(place.uri) as client:
        names = {found for name in client.list_collections() for found in client.list_aliases(name)["aliases"]}
        if place.alias in names:
            client.alter_alias(place.collection, place.alias)
        else:
            client.create_alias(place.collection, place.alias)


def drop_collection(place: Place) -> None:
    """Drops a collection, if it is there.

    Raises:
        UnavailableError: the server failed; the collection may be there still.
    """
    with connected(place.uri) as client:
        if client.has_collection(place.collection):
            client.drop_collection(place.collection)


class MilvusSearcher:
    """Searches a collection; safe for many threads at once.

    Args:
        directory: the snapshot's.
        metric: how closeness is computed.

    Raises:
        CorruptArtifactError: the collection is not there, or does not hold what the snapshot does.
        UnavailableError: the server does not answer.
    """

    def __init__(self, directory: Path, *, metric: Metric) -> None:
        self._place = read_place(directory)
        self._metric = metric_name(metric)
        self._client = connect(self._place.uri)
        with _guarded(self._place.uri):
            self._check(directory)

    def _check(self, directory: Path) -> None:
        name = self._place.collection
        there = self._client.has_collection(name)
        count = int(self._client.get_collection_stats(name)["row_count"]) if there else 0
        if count != self._place.count:
            raise CorruptArtifactError(
                f"collection {name} of {directory.name} holds {count} vectors at {self._place.uri}, wanted "
                f"{self._place.count}; build the snapshot again",
                metadata={"collection": name},
            )
        self._client.load_collection(name)

    def search(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> I64Array:
        """Returns rows; see ``Searcher``.

        Raises:
            UnavailableError: the server failed.
        """
        count = min(neighbor_count, self._place.count, MOST_NEIGHBORS)
        rows_QK = np.full((len(x_QD), neighbor_count), -1, dtype=np.int64)
        # An HNSW list is as long as what is wanted at least.
        name = self._place.effort_name
        params = {name: max(effort, count) if name == "ef" else effort}
        step = max(1, min(_QUERY_BYTES // (4 * x_QD.shape[1]), _MOST_FOUND // count))
        for start in range(0, len(x_QD), step):
            with _guarded(self._place.uri):
                found = self._client.search(
                    self._place.collection,
                    data=list(x_QD[start : start + step]),
                    anns_field="vector",
                    limit=count,
                    search_params={"metric_type": self._metric, "params": params},
                    timeout=_TIMEOUT_S,
                )
            for place, hits in enumerate(found, start=start):
                # The primary keys, by whatever name the version of the server has for them.
                rows_QK[place, : len(hits.ids)] = hits.ids
        return rows_QK
