"""Traces, sent to a real OTLP receiver on loopback: spans of calls and of their parts, under the caller's trace."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from typing_extensions import override

from serving.config import load_config
from serving.traces import Traces, make_traces
from tests.serving.conftest import config, make_vectors, running
from tests.serving.images import make_png
from vicinal.codec import encode_vector
from vicinal.store import Store
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import search_service_pb2_grpc, types_pb2

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Receiver(otlp_grpc.TraceServiceServicer):
    """Keeps the spans that come."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.lock = threading.Lock()

    @override
    def Export(self, request: Any, context: Any) -> Any:
        del context
        with self.lock:
            self.spans += [
                span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
            ]
        return otlp.ExportTraceServiceResponse()


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    receiver, server = Receiver(), grpc.server(ThreadPoolExecutor(2))
    otlp_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield receiver, f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def spans_of(store: Store, ask: Any, *, share: float) -> list[Any]:
    """Returns the spans that a server sent until it ended."""
    with receiving() as (receiver, endpoint):
        settings = config(f"observe.traces_endpoint={endpoint}", f"observe.traces_share={share}")
        with running(store, settings) as (_, address), grpc.insecure_channel(address) as channel:
            ask(search_service_pb2_grpc.SearchServiceStub(channel))
        return receiver.spans


def plain() -> pb.SearchRequest:
    return pb.SearchRequest(query=types_pb2.Query(vector=encode_vector(make_vectors(1)[0])))


def metadata(*, sampled: bool) -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{TRACE}-{SPAN}-0{int(sampled)}"),)


def test_a_call_of_a_traced_caller_goes_on_with_its_trace(image_store: Store) -> None:
    def ask(stub: Any) -> None:
        request = pb.SearchRequest(query=types_pb2.Query(content=make_png(3)))
        stub.Search(request, timeout=20, metadata=metadata(sampled=True))

    spans = spans_of(image_store, ask, share=0.0)
    by_name = {span.name: span for span in spans}
    assert set(by_name) == {"vicinal.v1.SearchService/Search", "decode", "embed", "search", "reply"}
    call = by_name["vicinal.v1.SearchService/Search"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert call.parent_span_id.hex() == SPAN
    assert {span.parent_span_id for span in spans if span is not call} == {call.span_id}
    assert {a.key: a.value.int_value for a in call.attributes}["rpc.grpc.status_code"] == 0


def test_a_span_begins_when_the_call_came() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces = Traces(provider, share=1.0)
    for waited_s in (0.0, 2.0):
        context = SimpleNamespace(traced=None, waited_s=waited_s, invocation_metadata=lambda: ())
        trace = traces.begin("/a.B/C", context)
        assert trace is not None
        trace.end(0, "")
    took_s = [((span.end_time or 0) - (span.start_time or 0)) / 1e9 for span in exporter.get_finished_spans()]
    assert took_s == [pytest.approx(0.0, abs=0.5), pytest.approx(2.0, abs=0.5)]


def test_a_caller_that_is_not_traced_makes_no_span(vector_store: Store) -> None:
    def ask(stub: Any) -> None:
        for _ in range(5):
            stub.Search(plain(), timeout=10, metadata=metadata(sampled=False))
            stub.Search(plain(), timeout=10)

    assert spans_of(vector_store, ask, share=0.0) == []


def test_a_share_of_the_other_calls_is_traced_with_their_errors(vector_store: Store) -> None:
    def ask(stub: Any) -> None:
        stub.Search(plain(), timeout=10)
        with pytest.raises(grpc.RpcError):
            stub.Search(pb.SearchRequest(query=types_pb2.Query(item_id="nobody")), timeout=10)

    spans = spans_of(vector_store, ask, share=1.0)
    calls = [span for span in spans if span.name.endswith("/Search")]
    codes = sorted({a.key: a.value.int_value for a in span.attributes}["rpc.grpc.status_code"] for span in calls)
    assert codes == [0, 5]
    assert sorted(span.status.code for span in calls) == [0, 2]
    assert len({span.trace_id for span in spans}) == 2


def test_nothing_is_traced_unless_it_is_asked_for() -> None:
    assert make_traces(load_config(None).observe) is None
