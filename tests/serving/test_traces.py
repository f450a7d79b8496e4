"""Traces, as whoever takes them over OTLP sees them."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from persona.errors import PersonaError
from serving import traces
from serving.app import create_app
from tests.serving.conftest import SETTINGS, Fakes

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


class Receiver:
    """Takes spans over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.paths.add(self.path)
                receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> list[Span]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span for request in requests for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    serving = threading.Thread(target=receiver.server.serve_forever)
    serving.start()
    yield receiver
    receiver.server.shutdown()
    serving.join()
    receiver.server.server_close()


def attributes(span: Span) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def test_a_request_is_a_span_in_the_callers_trace_and_each_question_to_a_store_one_in_it(
    fakes: Fakes, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")  # the framework's own, which would tell addresses and bodies
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    settings = SETTINGS.model_copy(update={"otlp_endpoint": receiver.url})
    with TestClient(create_app(settings, stores=fakes.openers())) as client:
        fakes.neo4j.fault = ValueError("about secret-person")
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "mine-1"}
        client.get("/recommendations/secret-person?channel=secret-channel", headers=headers)
        client.get("/recommendations/-?user_id=secret-person&k=0")
    spans = receiver.spans
    [answered] = [span for span in spans if span.trace_id.hex() == TRACE and span.kind == Span.SPAN_KIND_SERVER]
    assert answered.name == "GET /recommendations/{user_id}"
    assert answered.parent_span_id.hex() == CALLER
    assert attributes(answered) == {
        "http.request.method": "GET", "http.route": "/recommendations/{user_id}", "http.response.status_code": 200,
        "persona.request_id": "mine-1",
    }  # fmt: skip
    asked = [span for span in spans if span.parent_span_id == answered.span_id]
    assert {span.name for span in asked} == {"mongodb", "milvus", "neo4j", "redis"}
    assert {span.name for span in asked if span.status.code == Status.STATUS_CODE_ERROR} == {"neo4j"}
    [refused] = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER and span.trace_id.hex() != TRACE]
    assert attributes(refused)["http.response.status_code"] == 422
    assert len(spans) == len(asked) + 2, "what goes on in the background is no part of a trace"
    assert receiver.paths == {"/v1/traces"}
    assert b"secret" not in b"".join(receiver.bodies)


def test_it_ends_in_time_when_nobody_takes_the_spans(fakes: Fakes) -> None:
    settings = SETTINGS.model_copy(update={"otlp_endpoint": "http://127.0.0.1:9"})
    with TestClient(create_app(settings, stores=fakes.openers())) as client:
        assert client.get("/recommendations/u_1").status_code == 200
    with TestClient(create_app(SETTINGS, stores=fakes.openers())) as client:
        assert client.get("/recommendations/u_1").status_code == 200


def test_an_endpoint_without_the_libraries_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(PersonaError, match="OTEL_EXPORTER_OTLP_ENDPOINT is set"):
        traces.require(SETTINGS.model_copy(update={"otlp_endpoint": "http://127.0.0.1:4318"}))
