"""Puts servicers behind gRPC: every call is let in, timed, decoded, answered, and its errors encoded.

This stands where interceptors would, once for each method when the server starts, and costs a call
one coroutine less for each. Requests come as bytes, so that a message that cannot be decoded is
INVALID_ARGUMENT, as everything else that a caller got wrong.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from serving.calls import AT_ONCE, OTHERWISE, REQUEST_ID_KEY, AtOnce, Context, Quick, Reply, Wiring, waited_s
from serving.context import Call
from serving.failures import bug_of, one_line, unimplemented, unimplemented_stream, without_secrets
from vicinal.codec import STATUS_KEY, encode_status
from vicinal.errors import (
    CancelledError,
    Code,
    DeadlineExceededError,
    InvalidArgumentError,
    VicinalError,
)

logger = logging.getLogger(__name__)
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_MAX_REQUEST_ID = 64


def service_handler(descriptor: ServiceDescriptor, servicer: object | None, wiring: Wiring) -> grpc.GenericRpcHandler:
    """Returns the gRPC handler of a service; RPCs the servicer lacks answer UNIMPLEMENTED with a sentence.

    Args:
        descriptor: the service of the contract.
        servicer: has a coroutine for each RPC, by its name; None has none. Its ``quick``, if it has one, names what
            answers an RPC without a coroutine, see ``Quick``.
        wiring: what all calls share.
    """
    quick: Mapping[str, Quick] = getattr(servicer, "quick", {})
    handlers = {
        method.name: _handler(method, getattr(servicer, method.name, None), wiring, quick.get(method.name))
        for method in descriptor.methods
    }
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def _handler(
    method: MethodDescriptor, function: Any, wiring: Wiring, quick: Quick | None
) -> "grpc.RpcMethodHandler[Any, Any]":
    name = f"/{method.containing_service.full_name}/{method.name}"
    wire = _Wire(name, GetMessageClass(method.input_type), wiring)
    if method.client_streaming and method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(wire.stream_stream(function or unimplemented_stream(name)))
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(wire.unary_stream(function or unimplemented_stream(name)))
    if method.client_streaming:
        return grpc.stream_unary_rpc_method_handler(wire.stream_unary(function or unimplemented(name)))
    return grpc.unary_unary_rpc_method_handler(wire.unary_unary(function or unimplemented(name), quick))


class _Wire:
    """One method behind gRPC."""

    def __init__(self, name: str, request_class: type[Message], wiring: Wiring) -> None:
        self._name = name
        self._request_class = request_class
        self._wiring = wiring
        self._prefix = os.urandom(4).hex()
        self._counter = itertools.count(1)

    def unary_unary(self, function: Callable[[Any, Call], Awaitable[Reply]], quick: Quick | None = None) -> Any:
        """Wraps a coroutine that answers one request.

        Args:
            function: the coroutine.
            quick: is asked first; what it answers needs no deadline, no decoding and no call of its own.
        """
        at_once = None if quick is None else self._at_once(quick)

        async def otherwise(raw: bytes, context: Context) -> bytes:
            started_s = time.monotonic()
            came_s = started_s - waited_s(context)
            call = self._call(context, started_s)
            try:
                with self._admitted(call, context):
                    with call.part("decode"):
                        request = self._decode(raw)
                    work = function(request, call)
                    # gRPC itself ends the call at the caller's deadline.
                    reply = await (work if _remaining_s(context) is not None else self._in_time(work))
                with call.part("reply"):
                    answer = reply if isinstance(reply, bytes) else reply.SerializeToString()
            except BaseException as error:  # noqa: BLE001 - every error is answered or raised again
                await self._fail(error, call, context, came_s)
            self._note(call, 0, came_s)
            return answer

        if at_once is None:
            return otherwise

        async def handle(raw: bytes, context: Context) -> bytes:
            # gRPC's context cannot remember whether its call is traced: that is decided once.
            answer = at_once(raw, context) if self._wiring.traces is None else None
            return await otherwise(raw, context) if answer is None else answer

        handle.__dict__.update({AT_ONCE: at_once, OTHERWISE: otherwise})
        return handle

    def _at_once(self, quick: Quick) -> AtOnce:
        """Returns what most calls take: it answers without a task, or leaves everything to the coroutine."""
        wiring, name, now_s = self._wiring, self._name, time.monotonic
        admission, admit, observers = wiring.admission, wiring.gatekeeper.admit, wiring.observers
        traces = wiring.traces
        anonymous = Call(method=name, request_id="", client="", deadline_s=float("inf"))

        def answer(raw: bytes, context: Context) -> bytes | None:
            started_s = now_s()
            try:
                if not admission.has_room(admit(name, context)) or (traces is not None and traces.wants(context)):
                    return None
                reply = quick(raw)
            except Exception:  # noqa: BLE001 - the coroutine comes to the same error, and answers it
                return None
            if reply is not None:
                seconds, call = now_s() - started_s + waited_s(context), anonymous
                if wiring.identify:
                    call = self._call(context, started_s)
                    call.client = admit(name, context)
                for observer in observers:
                    observer.observe(call, 0, seconds)
            return reply

        return answer

    def stream_unary(self, function: Callable[[Any, Call], Awaitable[Reply]]) -> Any:
        """Wraps a coroutine that answers a stream of requests at its end."""

        async def handle(raws: AsyncIterator[bytes], context: Context) -> bytes:
            started_s = time.monotonic()
            call = self._call(context, started_s)
            try:
                with self._admitted(call, context):
                    reply = await self._in_time(function(self._decode_all(raws), call))
            except BaseException as error:  # noqa: BLE001 - every error is answered or raised again
                await self._fail(error, call, context, started_s)
            self._note(call, 0, started_s)
            return reply if isinstance(reply, bytes) else reply.SerializeToString()

        return handle

    def unary_stream(self, function: Callable[[Any, Call], AsyncIterator[Reply]]) -> Any:
        """Wraps an asynchronous generator that answers one request."""

        async def handle(raw: bytes, context: Context) -> AsyncIterator[bytes]:
            async for reply in self._stream(lambda call: function(self._decode(raw), call), context):
                yield reply

        return handle

    def stream_stream(self, function: Callable[[Any, Call], AsyncIterator[Reply]]) -> Any:
        """Wraps an asynchronous generator that answers a stream of requests."""

        async def handle(raws: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            async for reply in self._stream(lambda call: function(self._decode_all(raws), call), context):
                yield reply

        return handle

    async def _stream(self, answer: Callable[[Call], AsyncIterator[Reply]], context: Context) -> AsyncIterator[bytes]:
        started_s = time.monotonic()
        call = self._call(context, started_s, unlimited_s=float("inf"))
        try:
            with self._admitted(call, context, stream=True):
                async for reply in answer(call):
                    yield reply if isinstance(reply, bytes) else reply.SerializeToString()
        except BaseException as error:  # noqa: BLE001 - every error is answered or raised again
            await self._fail(error, call, context, started_s)
        self._note(call, 0, started_s)

    def _call(self, context: Context, started_s: float, *, unlimited_s: float | None = None) -> Call:
        remaining_s = _remaining_s(context)
        if remaining_s is None:
            remaining_s = self._wiring.limits.default_timeout_s if unlimited_s is None else unlimited_s
        traces = self._wiring.traces
        return Call(
            method=self._name,
            request_id=self._request_id(context) if self._wiring.identify else "",
            client="",
            deadline_s=started_s + remaining_s,
            trace=traces.begin(self._name, context) if traces is not None else None,
        )

    def _request_id(self, context: Context) -> str:
        for key, value in context.invocation_metadata() or ():
            if key == REQUEST_ID_KEY:
                text = value if isinstance(value, str) else value.decode("ascii", "replace")
                if text.isprintable() and len(text) <= _MAX_REQUEST_ID:
                    return text
        return f"{self._prefix}-{next(self._counter):x}"

    @contextlib.contextmanager
    def _admitted(self, call: Call, context: Context, *, stream: bool = False) -> Iterator[None]:
        call.client = self._wiring.gatekeeper.admit(self._name, context)
        admission = self._wiring.admission
        if stream:
            admission.enter_stream()
        elif getattr(context, "turned_away", False):
            admission.refuse_waiting()
        else:
            admission.enter(call.client)
        try:
            yield
        finally:
            if stream:
                admission.leave_stream()
            else:
                admission.leave(call.client)

    async def _in_time(self, work: Awaitable[Reply]) -> Reply:
        try:
            return await asyncio.wait_for(work, self._wiring.limits.default_timeout_s)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"no answer within the server's {self._wiring.limits.default_timeout_s:g} s; give the call a deadline"
            ) from error

    def _decode(self, raw: bytes) -> Message:
        try:
            return self._request_class.FromString(raw)
        except DecodeError as error:
            raise InvalidArgumentError(f"the request is not a valid {self._request_class.DESCRIPTOR.name}") from error

    async def _decode_all(self, raws: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for raw in raws:
            yield self._decode(raw)

    async def _fail(self, error: BaseException, call: Call, context: Context, started_s: float) -> NoReturn:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            call.cancelled = True
            self._note(call, Code.CANCELLED, started_s)
            raise error
        if isinstance(error, CancelledError):
            call.cancelled = True
        call.request_id = call.request_id or self._request_id(context)
        known = error if isinstance(error, VicinalError) else bug_of(error, call)
        self._note(call, known.code, started_s)
        shown = without_secrets(known, self._wiring.secrets)
        trailing = ((STATUS_KEY, encode_status(shown)), (REQUEST_ID_KEY, call.request_id))
        await context.abort(_STATUS[int(shown.code)], one_line(shown.message), trailing)

    def _note(self, call: Call, code: int, started_s: float) -> None:
        seconds = time.monotonic() - started_s
        if call.trace is not None:
            call.trace.end(int(code), call.request_id)
        for observer in self._wiring.observers:
            observer.observe(call, int(code), seconds)


def _remaining_s(context: Any) -> float | None:
    remaining_s: float | None = context.time_remaining()  # the stubs leave out that there may be none
    return remaining_s
