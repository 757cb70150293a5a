"""Traces to an OpenTelemetry collector, by OTLP over HTTP: the only importer of opentelemetry.

Told by the environment variables that OpenTelemetry has defined, and by nothing else; its packages
are needed only then. Names of attributes are those of its conventions for generative AI.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from api.convert.spans import SERVER, Span, spans
from api.traceparent import Parent
from cluster.core.errors import BadConfiguration

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

    from api.traces import Trace

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MOST_SPANS = 4000
"""Of one request are exported, the earliest; the rest is counted."""
BATCH = 512
"""Spans of one message."""

log = structlog.stdlib.get_logger("tandem.api")


def wanted(environ: Mapping[str, str]) -> str:
    """The variable that asks for traces to be exported; empty for none."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() != "otlp":
        return ""
    return next((name for name in ENDPOINTS if environ.get(name, "").strip()), "")


def otlp_exporter(environ: Mapping[str, str]) -> OtlpExporter | None:
    """What the environment asks for; None for nothing. Raises BadConfiguration when it can't be
    done."""
    name = wanted(environ)
    if not name:
        return None
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    if protocol != "http/protobuf":
        raise BadConfiguration(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, and traces are exported by http/protobuf "
            "only: collectors take that at port 4318"
        )
    try:
        return OtlpExporter()
    except ImportError as error:
        raise BadConfiguration(
            f"{name} asks for traces to be exported, and {error.name} is not installed: "
            "pip install 'tandem[otel]', or unset the variable"
        ) from error


class OtlpExporter:
    """Sends finished traces. What is sent where, and what is sampled, OpenTelemetry's own parts
    read from the environment (OTEL_EXPORTER_OTLP_*, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME)."""

    def __init__(self) -> None:
        """Raises ImportError when OpenTelemetry is not installed."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        self._exporter = OTLPSpanExporter()
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler
        # The environment's names go before ours.
        given = Resource.create().attributes
        name = str(given.get("service.name", ""))
        self._service = "tandem" if name.startswith("unknown_service") else name or "tandem"
        self._attributes = {**given, "service.version": version("tandem")}

    def samples(self, trace_id: str, parent: Parent | None) -> bool:
        """See Exporter."""
        from opentelemetry import trace as api
        from opentelemetry.sdk.trace.sampling import Decision

        context = (
            api.set_span_in_context(api.NonRecordingSpan(_context(parent))) if parent else None
        )
        result = self._sampler.should_sample(context, int(trace_id, 16), "request")
        return result.decision is Decision.RECORD_AND_SAMPLE

    def export(self, trace: Trace) -> None:
        """See Exporter."""
        told = self._readable(trace)
        for place in range(0, len(told), BATCH):
            self._exporter.export(told[place : place + BATCH])

    def close(self) -> None:
        """See Exporter."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, trace: Trace) -> list[ReadableSpan]:
        """A trace as OpenTelemetry has it: the request a server's span, all else within it."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        told = spans(trace.timeline)
        left_out = max(0, len(told) - MOST_SPANS) + trace.timeline.left_out
        # The request first. No part is earlier than the whole, so none is there without it.
        places = sorted(range(len(told)), key=lambda place: (place > 0, told[place].start, place))
        begun, ids = trace.timeline.wall, RandomIdGenerator()
        contexts = {
            place: SpanContext(
                int(trace.trace_id, 16), ids.generate_span_id(), is_remote=False,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
            )
            for place in places[:MOST_SPANS]
        }  # fmt: skip
        scope = InstrumentationScope("tandem", version("tandem"))
        error = trace.timeline.details.get("error")
        resources = {name: self._resource(name) for name in {span.process for span in told}}

        def parent(span: Span) -> SpanContext | None:
            if span.parent is not None:
                return contexts[span.parent]
            return _context(trace.parent) if trace.parent is not None else None

        return [
            ReadableSpan(
                name=told[place].name if place else root_name(told[0]),
                context=context,
                parent=parent(told[place]),
                resource=resources[told[place].process],
                attributes=attributes(told[place])
                if place
                else root_attributes(told[0], trace, left_out),
                kind=SpanKind.INTERNAL if place else SpanKind.SERVER,
                status=Status(StatusCode.ERROR, str(error)) if error and not place else Status(),
                start_time=_nanoseconds(begun + told[place].start),
                end_time=_nanoseconds(begun + told[place].end),
                instrumentation_scope=scope,
            )
            for place, context in contexts.items()
        ]

    def _resource(self, process: str) -> Any:
        """Who did it: the coordinator, or one rank."""
        from opentelemetry.sdk.resources import Resource

        if process == SERVER:
            more = {"service.name": self._service, "host.name": socket.gethostname()}
        else:
            more = {"service.name": f"{self._service}-engine", "service.instance.id": process}
        return Resource({**self._attributes, **more})


def root_name(span: Span) -> str:
    """As the conventions have it, "chat MODEL" or "text_completion MODEL"; for a request that was
    not taken its method and path."""
    details = span.details
    if "model" in details:
        return f"{_operation(span)} {details['model']}"
    return f"{details.get('method')} {details.get('path')}"


def root_attributes(span: Span, trace: Trace, left_out: int) -> dict[str, Any]:
    """Of the request as a whole, by OpenTelemetry's conventions for generative AI and HTTP."""
    details = span.details
    told: dict[str, Any] = {
        "http.request.method": details.get("method"),
        "url.path": details.get("path"),
        "error.type": details.get("error"),
        "tandem.request.id": trace.timeline.name,
        "tandem.spans.left_out": left_out or None,
    }
    if "model" in details:
        told |= {
            "gen_ai.operation.name": _operation(span),
            "gen_ai.provider.name": "tandem",
            "gen_ai.request.model": details["model"],
            "gen_ai.request.stream": details["stream"],
            "gen_ai.response.model": details["model"],
            "gen_ai.response.id": str(trace.timeline.requests[0]),
            "gen_ai.response.finish_reasons": details["finish"],
            "gen_ai.usage.input_tokens": details["prompt_tokens"],
            "gen_ai.usage.output_tokens": details["completion_tokens"],
            "gen_ai.usage.cache_read.input_tokens": details["cached_tokens"],
        }
        if len(trace.timeline.requests) > 1:
            told["gen_ai.request.choice.count"] = len(trace.timeline.requests)
    return {name: value for name, value in told.items() if value is not None}


def attributes(span: Span) -> dict[str, Any]:
    """Of any other span: what it is about, and what is known of it."""
    told: dict[str, Any] = {f"tandem.{name}": value for name, value in span.details.items()}
    return {"tandem.track": span.track, "tandem.process": span.process, **told}


def _operation(span: Span) -> str:
    return "chat" if span.details.get("chat") else "text_completion"


def _context(parent: Parent) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, flags)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
