"""Traces through OpenTelemetry: a span for each request and, in it, one for each question to a store. What is timed is `telemetry`'s.

What sends spans is not imported unless an OTLP endpoint is set. Spans name routes, stores and outcomes; no path, query or
error text enters them, so nobody's id or words do.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import Token
from dataclasses import dataclass
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from persona.errors import PersonaError
from persona.settings import Settings

FLUSH_SECONDS = 2.0
"""How long the end of the service waits for the last spans to be taken."""
TRACE_HEADERS = {b"traceparent": "traceparent", b"tracestate": "tracestate"}

_tracer: Tracer | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """A span under way."""

    span: Span
    token: Token[Any]


def require(settings: Settings) -> None:
    """Raise `PersonaError` where an endpoint is set and what sends to it is not installed."""
    if settings.otlp_endpoint is None:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        raise PersonaError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and the libraries that send traces are not installed",
            hint="Install the extra `tracing`, or unset it.",
        ) from None


@contextmanager
def sent(settings: Settings) -> Iterator[None]:
    """Send spans to the settings' endpoint for as long as the block lasts; nothing where there is none."""
    global _tracer
    if settings.otlp_endpoint is None:
        yield
        return
    require(settings)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = Resource({SERVICE_NAME: "persona"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("persona")
    try:
        yield
    finally:
        _tracer = None
        # whoever takes the spans may be gone: that must not keep the service from ending
        flushing = threading.Thread(target=provider.shutdown, name="traces-flush", daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)


def request_begun(method: str, headers: Iterable[tuple[bytes, bytes]]) -> Open | None:
    """The span of a request, within the trace that its headers name; None where no traces are sent."""
    if _tracer is None:
        return None
    given = {TRACE_HEADERS[name]: value.decode("latin-1") for name, value in headers if name in TRACE_HEADERS}
    parent = TraceContextTextMapPropagator().extract(given)
    return _opened(_tracer.start_span(method, context=parent, kind=SpanKind.SERVER))


def request_ended(begun: Open, *, method: str, route: str | None, status: int | None, request_id: str) -> None:
    """The request was answered with `status`, None where nobody was left to answer."""
    begun.span.update_name(f"{method} {route}" if route else method)
    begun.span.set_attributes({"http.request.method": method, "persona.request_id": request_id})
    if route:
        begun.span.set_attribute("http.route", route)
    if status:
        begun.span.set_attribute("http.response.status_code", status)
    _closed(begun, well=status is not None and status < 500)


def store_asked(store: str) -> Open | None:
    """The span of a question to a store; None where no request is traced, as in the background."""
    if _tracer is None or not trace.get_current_span().is_recording():
        return None
    return _opened(_tracer.start_span(store, kind=SpanKind.CLIENT, attributes={"persona.store": store}))


def store_answered(asked: Open, outcome: str) -> None:
    """The store answered, or not."""
    asked.span.set_attribute("persona.outcome", outcome)
    _closed(asked, well=outcome == "ok")


def _opened(span: Span) -> Open:
    return Open(span, context.attach(trace.set_span_in_context(span)))


def _closed(begun: Open, *, well: bool) -> None:
    context.detach(begun.token)
    if not well:
        begun.span.set_status(StatusCode.ERROR)
    begun.span.end()
