"""Levels and runs with known timings."""

from __future__ import annotations

from typing import Any

from cluster.bench.load import Load
from cluster.bench.prompts import Calibration
from cluster.bench.result import Asked, Level, Request, Run, Slo

ASKED = Asked(
    prompt="128",
    output="4",
    prefix=0,
    turns=1,
    think=0.0,
    cancel=0.0,
    seed=0,
    seconds=10.0,
    requests=None,
    warmup=0,
    timeout=60.0,
    temperature=None,
    fields={"ignore_eos": True},
)


def request(planned: float = 0.0, *, ttft: float = 0.5, itl: float = 0.1, **more: Any) -> Request:
    """Four tokens in four pieces, sent when it was due."""
    sent = more.pop("sent", planned)
    last = sent + ttft + 3 * itl
    whole: dict[str, Any] = {
        "session": 0,
        "turn": 0,
        "status": "ok",
        "asked_prompt": 128,
        "asked_output": 4,
        "first": sent + ttft,
        "gaps": (itl,) * 3,
        "last": last,
        "end": last,
        "prompt_tokens": 128,
        "output_tokens": 4,
        "counted": True,
    }
    return Request(planned=planned, sent=sent, **{**whole, **more})


def failed(planned: float = 0.0, **more: Any) -> Request:
    nothing = {"first": None, "gaps": (), "last": None, "output_tokens": 0, "prompt_tokens": None}
    return request(
        planned, status="failed", **{**nothing, "error": "http_500", "detail": "broken <b>", **more}
    )


def level(*requests: Request, window: float = 10.0, load: Load = Load("closed", 1.0)) -> Level:  # noqa: B008 - frozen
    return Level(load, window, requests)


def run(*levels: Level, slo: Slo = Slo(), **more: Any) -> Run:  # noqa: B008 - frozen
    from dataclasses import replace

    whole: dict[str, Any] = {
        "started": "2026-01-01T00:00:00+00:00",
        "url": "http://127.0.0.1:1",
        "model": "demo",
        "environment": {"tandem": "0"},
        "nonce": "n",
        "calibration": Calibration(1.0, 1.0),
        "asked": replace(ASKED, slo=slo),
    }
    return Run(levels=levels, **{**whole, **more})
