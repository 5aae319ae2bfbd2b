"""The Prometheus endpoint: reads the board that all workers of a port write on.

Metrics are gathered when they are asked for; a call costs its worker three additions to shared memory.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from typing_extensions import override

from serving.board import BOUNDS_S, Board
from vicinal.artifact import read_manifest
from vicinal.errors import Code, UnavailableError, VicinalError
from vicinal.store import Store

logger = logging.getLogger(__name__)

_GAUGES = (
    ("in_flight", "vicinal_in_flight_calls", "Unary calls in progress."),
    ("waiting", "vicinal_waiting_calls", "Plain vector queries that wait for their turn, as last looked at."),
    ("streams", "vicinal_open_streams", "StreamSearch calls that are open."),
    ("served_generation", "vicinal_served_generation", "Activation that the worker answers from."),
    ("delta_number", "vicinal_delta_number", "Last change of items that the worker's answers hold."),
    ("pending_items", "vicinal_pending_items", "Items changed since the snapshot, which the next refresh folds in."),
    ("recall", "vicinal_recall_probe", "Recall of the last probe against exact search, in [0, 1]."),
    ("recall_time_s", "vicinal_recall_probe_time_seconds", "Unix time of the last recall probe."),
    ("resident_bytes", "vicinal_worker_resident_bytes", "Resident memory of the worker."),
    ("live", "vicinal_worker_live", "1 while the worker answers."),
    ("start_time_s", "vicinal_worker_start_time_seconds", "Unix time at which the worker began to answer."),
)
_COUNTERS = (
    ("refused_count", "vicinal_refused_calls", "Calls refused because too much was in flight."),
    ("swap_count", "vicinal_swaps", "Generations that went into service."),
    ("cache_hit_count", "vicinal_embedding_cache_hits", "Images found in the embedding cache."),
    ("cache_miss_count", "vicinal_embedding_cache_misses", "Images not found in the embedding cache."),
    ("image_batch_count", "vicinal_image_batches", "Forward passes of the encoder."),
    ("batched_image_count", "vicinal_batched_images", "Images that went through the encoder."),
    ("start_count", "vicinal_worker_starts", "Times the worker was started."),
)


class BoardCollector(Collector):
    """Turns a board into metric families.

    Args:
        board: what the workers share.
        store: the workspace, in which fingerprints are looked up.
    """

    def __init__(self, board: Board, store: Store) -> None:
        self._board = board
        self._store = store
        self._fingerprints: dict[int, str] = {}

    @override
    def collect(self) -> Iterator[Metric]:
        """Gives every family."""
        yield from self._calls()
        for gauge, name, text in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=["worker"])
            for number, slab in enumerate(self._board.slabs()):
                family.add_metric([str(number)], slab[gauge])
            yield family
        for gauge, name, text in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["worker"])
            for number, slab in enumerate(self._board.slabs()):
                counter.add_metric([str(number)], slab[gauge])
            yield counter
        yield self._snapshot()

    def _calls(self) -> Iterator[Metric]:
        calls = CounterMetricFamily("vicinal_calls", "Calls that ended, by status code.", labels=["method", "code"])
        told = "Time to answer, including the wait for a turn."
        latency = HistogramMetricFamily("vicinal_call_latency_seconds", told, labels=["method"])
        for method in self._board.methods:
            counts = self._board.counts(method)
            if not sum(counts.by_code):
                continue
            for code, count in enumerate(counts.by_code):
                if count:
                    calls.add_metric([method, Code(code).name if code else "OK"], count)
            total, buckets = 0, []
            for bound, count in zip([*BOUNDS_S, float("inf")], counts.buckets, strict=True):
                total += count
                buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", total))
            latency.add_metric([method], buckets=buckets, sum_value=counts.seconds)
        yield calls
        yield latency

    def _snapshot(self) -> Metric:
        info = InfoMetricFamily("vicinal_snapshot", "What each worker answers from.", labels=["worker"])
        for number, slab in enumerate(self._board.slabs()):
            version = int(slab["served_snapshot"])
            if version:
                known = {"snapshot": f"snapshots/{version:06d}", "fingerprint": self._fingerprint(version)}
                info.add_metric([str(number)], known)
        return info

    def _fingerprint(self, version: int) -> str:
        if version not in self._fingerprints:
            try:
                path: Path = self._store.path("snapshots", str(version))
                body = read_manifest(path, kind="snapshot", version=2**31, verify=False).body
                self._fingerprints[version] = str(body["fingerprint"])
            except (VicinalError, KeyError):
                return ""
        return self._fingerprints[version]


def start_metrics(board: Board, store: Store, *, host: str, port: int) -> int:
    """Serves metrics from a thread of this process.

    Args:
        board: what the workers share.
        store: the workspace.
        host: address to listen on.
        port: port to listen on; 0 for a free one.

    Returns:
        The port.

    Raises:
        UnavailableError: the port cannot be opened.
    """
    registry = CollectorRegistry()
    registry.register(BoardCollector(board, store))
    ProcessCollector(registry=registry)
    try:
        server, _ = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise UnavailableError(
            f"cannot serve metrics on {host}:{port}: {error.strerror}; set observe.metrics_port"
        ) from error
    found = int(server.server_port)
    logger.info("metrics on http://%s:%d/metrics", host, found)
    return found
