"""OpenTelemetry traces: a span for every call that is traced, and one for each part of its work.

Off unless ``observe.traces_endpoint`` says where to; then nothing of it is imported. A caller that sends a W3C
``traceparent`` decides for its calls, ``observe.traces_share`` for the others.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from serving.calls import waited_s
from serving.config import ObserveConfig
from vicinal.errors import InvalidConfigError

if TYPE_CHECKING:
    from opentelemetry.context import Context as Parent
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_TRACED = "traced"


class Trace:
    """The span of one call.

    Args:
        tracer: makes spans.
        span: of the call.
    """

    def __init__(self, tracer: "Tracer", span: "Span") -> None:
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - only where traces are wanted

        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measures a part of the work; it may be in another thread.

        Args:
            name: ``decode``, ``embed``, ``search`` or ``reply``.
        """
        with self._tracer.start_span(name, context=self._context):
            yield

    def end(self, code: int, request_id: str) -> None:
        """Ends the span of the call with its status code, 0 for OK."""
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - only where traces are wanted

        self._span.set_attribute("rpc.grpc.status_code", code)
        if request_id:
            self._span.set_attribute("vicinal.request_id", request_id)
        if code:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Traces:
    """Decides which calls are traced, and begins their spans.

    Args:
        provider: exports them.
        share: share of the calls without a ``traceparent`` that are traced, in [0, 1].
    """

    def __init__(self, provider: "TracerProvider", *, share: float) -> None:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - only where traces are wanted
            TraceContextTextMapPropagator,
        )

        self._provider = provider
        self._tracer = provider.get_tracer("vicinal.serving")
        self._read = TraceContextTextMapPropagator().extract
        self._share = share

    def wants(self, context: Any) -> bool:
        """Returns whether a call is traced; the same whenever it is asked for one call.

        Args:
            context: of the call, as gRPC gives it.
        """
        known: bool | None = getattr(context, _TRACED, None)
        if known is None:
            from opentelemetry.trace import get_current_span  # noqa: PLC0415 - only where traces are wanted

            parent = get_current_span(self._parent(context)).get_span_context()
            chosen = random.random() < self._share  # noqa: S311 - nobody gains by guessing it
            known = parent.trace_flags.sampled if parent.is_valid else chosen
            if hasattr(context, _TRACED):
                context.traced = known
        return known

    def begin(self, method: str, context: Any) -> Trace | None:
        """Begins the span of a call; None where it is not traced.

        Args:
            method: full name of the RPC.
            context: of the call, as gRPC gives it.
        """
        if not self.wants(context):
            return None
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - only where traces are wanted

        service, _, name = method.lstrip("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        span = self._tracer.start_span(
            f"{service}/{name}",
            context=self._parent(context),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=time.time_ns() - round(1e9 * waited_s(context)),
        )
        return Trace(self._tracer, span)

    def close(self) -> None:
        """Sends what has not been sent."""
        self._provider.shutdown()

    def _parent(self, context: Any) -> "Parent":
        metadata = context.invocation_metadata() or ()
        return self._read({key: value for key, value in metadata if isinstance(value, str)})


def make_traces(observe: ObserveConfig) -> Traces | None:
    """Returns what traces calls, None where nobody wants it.

    Raises:
        InvalidConfigError: the packages of OpenTelemetry are not installed.
    """
    if not observe.traces_endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional
    except ImportError as error:
        raise InvalidConfigError(
            "observe.traces_endpoint wants OpenTelemetry; run: pip install 'vicinal[otel]'",
            field="observe.traces_endpoint",
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "vicinal"}))
    plain = not observe.traces_endpoint.startswith("https://")
    exporter = OTLPSpanExporter(endpoint=observe.traces_endpoint, insecure=plain)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Traces(provider, share=observe.traces_share)
