from __future__ import annotations

import sys
from typing import Any

import pytest

from api.convert.spans import spans
from api.otlp import OtlpExporter, otlp_exporter, wanted
from api.traces import Trace
from cluster.core.errors import BadConfiguration
from tests.unit.api.traced import a_timeline

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, ""),
        (ENDPOINT, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, ""),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, ""),
    ],
)
def test_who_asks_for_it(environ: dict[str, str], name: str) -> None:
    assert wanted(environ) == name


def test_nobody_who_does_not_ask_needs_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert otlp_exporter({}) is None


def test_without_the_packages_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BadConfiguration, match=r"pip install 'tandem\[otel\]'"):
        otlp_exporter(ENDPOINT)


def test_grpc_is_refused_by_name() -> None:
    with pytest.raises(BadConfiguration, match="http/protobuf"):
        otlp_exporter({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_of_too_many_spans_the_earliest_are_sent_each_with_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.otlp.MOST_SPANS", 12)
    sent: list[Any] = []
    exporter = OtlpExporter()
    monkeypatch.setattr(exporter._exporter, "export", sent.extend)
    exporter.export(Trace(a_timeline(), "ab" * 16, None, exported=True))
    exporter.close()
    whole = spans(a_timeline())
    assert [span.name for span in sent[1:]] == [
        span.name for span in sorted(whole[1:], key=lambda span: span.start)[:11]
    ]
    assert sent[0].attributes["tandem.spans.left_out"] == len(whole) - 12
    ids = {span.context.span_id for span in sent}
    assert all(span.parent.span_id in ids for span in sent[1:])
    ranks = {
        s.attributes["tandem.process"] for s in sent[1:] if "rank" in s.attributes["tandem.process"]
    }
    assert ranks == {"rank 0 studio-1", "rank 1 studio-2"}
