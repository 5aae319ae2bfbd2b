"""The asyncio client."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
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
from vicinal.client.call import Call, async_method, serialized
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
from vicinal.client.stream import Pending, run_async
from vicinal.client.wire import WireChannel
from vicinal.errors import InvalidArgumentError, UnavailableError, VicinalError
from vicinal.v1 import search_service_pb2 as pb

T = TypeVar("T")
_MOST_CONNECTIONS = 64


class AsyncClient:
    """Connections to a server for one event loop; its methods are those of ``Client``, to be awaited.

    Args:
        address: ``host:port``.
        timeout_s: seconds that a call may take, retries included, unless it says otherwise.
        security: TLS and API key; default plain text.
        retry: when a call is sent again.
        connections: at most this many; one under TLS without ``ca``. One connection is one of the server's worker
            processes: with several, calls in progress together are answered by several, and one may see a new
            snapshot a moment before another. Calls one after the other take the first connection alone.

    Raises:
        InvalidArgumentError: ``connections`` is below 1 or above 64.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = 30.0,
        security: Security | None = None,
        retry: RetryPolicy | None = None,
        connections: int = 1,
    ) -> None:
        if not 1 <= connections <= _MOST_CONNECTIONS:
            raise InvalidArgumentError(f"connections is {connections}, wanted 1 to {_MOST_CONNECTIONS}")
        security = security or Security()
        self.address = address
        """Of the server."""
        self.timeout_s = timeout_s
        """Seconds that a call may take by default."""
        self._retry = retry or RetryPolicy()
        self._metadata = call_metadata(security)
        secrets, tls, options = credentials(security), own_context(security), channel_options(security)
        self._channel = (
            grpc.aio.secure_channel(address, secrets, options=options)
            if secrets
            else grpc.aio.insecure_channel(address, options=options)
        )
        self._wire = (
            WireChannel(address, connections=connections, tls=tls, server_name=security.server_name)
            if (secrets is None or tls is not None) and is_plain_address(address)
            else None
        )
        self._methods: dict[str, Any] = {}

    search = async_method(search_calls.search)
    batch_search = async_method(search_calls.batch_search)
    embed = async_method(search_calls.embed)
    get_active_snapshot = async_method(snapshot_calls.get_active_snapshot)
    list_snapshots = async_method(snapshot_calls.list_snapshots)
    activate_snapshot = async_method(snapshot_calls.activate_snapshot)
    get_item = async_method(snapshot_calls.get_item)
    list_items = async_method(snapshot_calls.list_items)
    upsert_items = async_method(write_calls.upsert_items)
    delete_items = async_method(write_calls.delete_items)
    start_refresh = async_method(operation_calls.start_refresh)
    get_operation = async_method(operation_calls.get_operation)
    list_operations = async_method(operation_calls.list_operations)
    cancel_operation = async_method(operation_calls.cancel_operation)
    classify = async_method(fewshot_calls.classify)
    list_classifiers = async_method(fewshot_calls.list_classifiers)
    calibrate = async_method(measure_calls.calibrate)
    evaluate = async_method(measure_calls.evaluate)
    create_label_set = async_method(label_set_calls.create_label_set)
    get_label_set = async_method(label_set_calls.get_label_set)
    list_label_sets = async_method(label_set_calls.list_label_sets)
    delete_label_set = async_method(label_set_calls.delete_label_set)
    rename_class = async_method(label_set_calls.rename_class)
    list_batches = async_method(label_set_calls.list_batches)
    undo_batch = async_method(label_set_calls.undo_batch)
    redo_batch = async_method(label_set_calls.redo_batch)
    list_conflicts = async_method(label_set_calls.list_conflicts)
    put_labels = async_method(label_calls.put_labels)
    remove_labels = async_method(label_calls.remove_labels)
    list_labels = async_method(label_calls.list_labels)
    export_labels = async_method(label_calls.export_labels)
    import_labels = async_method(label_calls.import_labels)
    propose = async_method(proposal_calls.propose)
    list_proposals = async_method(proposal_calls.list_proposals)
    accept_proposals = async_method(proposal_calls.accept_proposals)
    reject_proposals = async_method(proposal_calls.reject_proposals)
    suggest_next = async_method(proposal_calls.suggest_next)

    async def call(self, call: Call[T]) -> T:
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
                replies = method(sent, timeout=timeout_s, metadata=self._metadata)
                reply = [one async for one in replies] if call.streamed else await replies
            except grpc.aio.AioRpcError as error:
                found = to_error(error, self.address)
                wait_s = self._retry.wait_s(attempt)
                timeout_s = deadline_s - time.monotonic() - wait_s
                last = attempt + 1 == self._retry.attempt_count
                if not isinstance(found, UnavailableError) or not call.retry or last or timeout_s <= 0:
                    raise found from error
                await asyncio.sleep(wait_s)
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
    ) -> AsyncIterator[SearchResult | VicinalError]:
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
        method = (self._wire or self._channel).stream_stream(
            STREAM_METHOD,
            request_serializer=pb.StreamSearchRequest.SerializeToString,
            response_deserializer=pb.StreamSearchResponse.FromString,
        )
        return run_async(
            pending,
            lambda requests: method(requests, metadata=self._metadata),
            lambda error: to_error(error, self.address),
            self._retry,
        )

    async def close(self) -> None:
        """Closes the connections; calls in progress are cancelled."""
        if self._wire is not None:
            await self._wire.close()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

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
