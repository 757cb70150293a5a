from __future__ import annotations

import sys

import pytest

from api.otlp import otlp_exporter, wanted
from cluster.core.errors import BadConfiguration

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
