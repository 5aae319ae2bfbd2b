"""The blocking client."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from vicinal.client import fewshot as fewshot_calls
from vicinal.client import fewshot_measures as measure_calls
from vicinal.client import label_sets as label_set_calls
from vicinal.client import labels as label_calls
from vicinal.client import operations as operation_calls
from vicinal.client import proposals as proposal_calls
from vicinal.client import search as search_calls
from vicinal.client import snapshots as snapshot_calls
from vicinal.client import writes as write_calls
from vicinal.client.blocking import IS_SUPPORTED, BlockingChannel
from vicinal.client.call import Call, serialized, sync_method
from vicinal.client.channel import (
    DEFAULT_ADDRESS,
    RetryPolicy,
    Security,
    call_metadata,
    channel_options,
    credentials,
    is_plain_address,
    own_context,
    to_error,
)
from vicinal.client.query import Options, QueryLike
from vicinal.client.results import SearchResult
from vicinal.client.stream import METHOD as STREAM_METHOD
from vicinal.client.stream import Pending, run_sync
from vicinal.errors import UnavailableError, VicinalError
from vicinal.v1 import search_service_pb2 as pb

T = TypeVar("T")


class Client:
    """Connections to a server; safe to use from several threads.

    Every call in progress has a connection of its own, which the next call takes: calls one after the
    other stay on one, threads have one each. One connection is one of the server's worker processes, and two may
    see a new snapshot a moment apart. Under TLS without ``ca`` all calls share one connection.

    Args:
        address: ``host:port``.
        timeout_s: seconds that a call may take, retries included, unless it says otherwise.
        security: TLS and API key; default plain text.
        retry: when a call is sent again.

    Example:
        >>> with Client("127.0.0.1:50051") as client:  # doctest: +SKIP
        ...     for item_id, score in client.search("cat.jpg", neighbor_count=5):
        ...         print(item_id, score)
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = 30.0,
        security: Security | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        security = security or Security()
        self.address = address
        """Of the server."""
        self.timeout_s = timeout_s
        """Seconds that a call may take by default."""
        self._retry = retry or RetryPolicy()
        self._metadata = call_metadata(security)
        secrets, tls, options = credentials(security), own_context(security), channel_options(security)
        self._channel = (
            grpc.secure_channel(address, secrets, options=options)
            if secrets
            else grpc.insecure_channel(address, options=options)
        )
        is_ours = (secrets is None or tls is not None) and IS_SUPPORTED and is_plain_address(address)
        self._wire = BlockingChannel(address, tls=tls, server_name=security.server_name) if is_ours else None
        self._methods: dict[str, Any] = {}

    search = sync_method(search_calls.search)
    batch_search = sync_method(search_calls.batch_search)
    embed = sync_method(search_calls.embed)
    get_active_snapshot = sync_method(snapshot_calls.get_active_snapshot)
    list_snapshots = sync_method(snapshot_calls.list_snapshots)
    activate_snapshot = sync_method(snapshot_calls.activate_snapshot)
    get_item = sync_method(snapshot_calls.get_item)
    list_items = sync_method(snapshot_calls.list_items)
    upsert_items = sync_method(write_calls.upsert_items)
    delete_items = sync_method(write_calls.delete_items)
    start_refresh = sync_method(operation_calls.start_refresh)
    get_operation = sync_method(operation_calls.get_operation)
    list_operations = sync_method(operation_calls.list_operations)
    cancel_operation = sync_method(operation_calls.cancel_operation)
    classify = sync_method(fewshot_calls.classify)
    list_classifiers = sync_method(fewshot_calls.list_classifiers)
    calibrate = sync_method(measure_calls.calibrate)
    evaluate = sync_method(measure_calls.evaluate)
    create_label_set = sync_method(label_set_calls.create_label_set)
    get_label_set = sync_method(label_set_calls.get_label_set)
    list_label_sets = sync_method(label_set_calls.list_label_sets)
    delete_label_set = sync_method(label_set_calls.delete_label_set)
    rename_class = sync_method(label_set_calls.rename_class)
    list_batches = sync_method(label_set_calls.list_batches)
    undo_batch = sync_method(label_set_calls.undo_batch)
    redo_batch = sync_method(label_set_calls.redo_batch)
    list_conflicts = sync_method(label_set_calls.list_conflicts)
    put_labels = sync_method(label_calls.put_labels)
    remove_labels = sync_method(label_calls.remove_labels)
    list_labels = sync_method(label_calls.list_labels)
    export_labels = sync_method(label_calls.export_labels)
    import_labels = sync_method(label_calls.import_labels)
    propose = sync_method(proposal_calls.propose)
    list_proposals = sync_method(proposal_calls.list_proposals)
    accept_proposals = sync_method(proposal_calls.accept_proposals)
    reject_proposals = sync_method(proposal_calls.reject_proposals)
    suggest_next = sync_method(proposal_calls.suggest_next)

    def call(self, call: Call[T]) -> T:
        """Sends a call, again while the server is UNAVAILABLE and time is left.

        Raises:
            VicinalError: of the class that the server raised.
        """
        timeout_s = self.timeout_s if call.timeout_s is None else call.timeout_s
        deadline_s = time.monotonic() + timeout_s
        method = self._methods.get(call.method) or self._method(call)
        for attempt in range(self._retry.attempt_count):
            try:
                sent = call.request if call.requests is None else iter(call.requests)
                reply = method(sent, timeout=timeout_s, metadata=self._metadata)
                reply = list(reply) if call.streamed else reply
            except grpc.RpcError as error:
                found = to_error(error, self.address)
                wait_s = self._retry.wait_s(attempt)
                timeout_s = deadline_s - time.monotonic() - wait_s
                last = attempt + 1 == self._retry.attempt_count
                if not isinstance(found, UnavailableError) or not call.retry or last or timeout_s <= 0:
                    raise found from error
                time.sleep(wait_s)
            else:
                return call.decode(reply)
        raise AssertionError("a policy has at least one attempt")

    def stream_search(
        self,
        queries: Iterable[QueryLike],
        *,
        snapshot: str = "",
        window: int = 256,
        **options: Unpack[Options],
    ) -> Iterator[SearchResult | VicinalError]:
        """Finds the neighbors of queries as they come, many under way at once.

        Args:
            queries: item ids, images or vectors; taken no faster than they are answered.
            snapshot: answer from this snapshot; empty for the active one.
            window: most queries under way, at least 1.
            options: ``neighbor_count`` and the others of ``Options``.

        Returns:
            A result or an error for each query, in their order.

        Raises:
            VicinalError: the stream failed; queries that a lost server left unanswered are asked again first.
        """
        pending = Pending(queries, window=window, snapshot=snapshot, **options)
        method = self._channel.stream_stream(
            STREAM_METHOD,
            request_serializer=pb.StreamSearchRequest.SerializeToString,
            response_deserializer=pb.StreamSearchResponse.FromString,
        )
        return run_sync(
            pending,
            lambda requests: method(requests, metadata=self._metadata),
            lambda error: to_error(error, self.address),
            self._retry,
        )

    def close(self) -> None:
        """Closes the connections; calls in progress are cancelled."""
        if self._wire is not None:
            self._wire.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _method(self, call: Call[Any]) -> Any:
        shapes = {
            (False, False): (self._wire or self._channel).unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
        }
        method = shapes[call.requests is not None, call.streamed](
            call.method,
            request_serializer=serialized,
            response_deserializer=call.response.FromString,
        )
        self._methods[call.method] = method
        return method
