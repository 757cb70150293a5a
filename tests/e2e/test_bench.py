"""`tandem bench` against a real server: what it says is what the server counted."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from cluster.bench.figures import summarise
from cluster.bench.result import Run, from_json
from tests.e2e.cluster_process import Process, Server, wait_until


def generated(server: Server) -> float:
    """Tokens that clients have been told of so far."""
    found = re.search(
        r"^tandem_generated_tokens_total (\S+)", server.http.get("/metrics").text, re.M
    )
    assert found
    return float(found[1])


def result(process: Process, path: Path, code: int = 0) -> Run:
    assert process.popen.wait(120) == code, process.output
    return from_json(path.read_text(), path.name)


def test_every_token_is_counted(demo: Server, tmp_path: Path) -> None:
    out, html = tmp_path / "a.json", tmp_path / "a.html"
    options = "--concurrency 1,3 --requests 9 --turns 3 --prefix 60 --prompt 200 --output 20"
    before = generated(demo)
    files = ("--out", str(out), "--html", str(html))
    with Process("bench", "--url", demo.url, "--warmup", "0", *options.split(), *files) as process:
        run = result(process, out)
        assert "tok/s" in process.output
    assert len(run.levels) == 2
    requests = [request for level in run.levels for request in level.requests]
    assert {(r.status, r.output_tokens, r.finish) for r in requests} == {("ok", 20, "length")}
    probed = 4  # tokens: /tokenize counts prompts, so one short answer is all it asks for
    assert generated(demo) - before == 20 * len(requests) + probed
    for level in run.levels:
        figures = summarise(level, run.asked.slo)
        firsts = [r.prompt_tokens or 0 for r in level.requests if r.turn == 0]
        # The demo model's words are of several tokens each, so their number varies.
        assert all(abs(tokens - 260) <= 0.15 * 260 for tokens in firsts), firsts
        later = [r.cached_tokens or 0 for r in level.requests if r.turn > 0]
        assert min(later) >= 200  # the turn before
        assert figures.spreads["itl"] is not None
    assert html.read_text().startswith("<!doctype html>")
    demo.wait_idle()


def test_ctrl_c_hangs_up_and_tells_what_was_measured(demo: Server, tmp_path: Path) -> None:
    out = tmp_path / "b.json"
    options = ("--concurrency", "2", "--seconds", "300", "--output", "500", "--cancel", "0.5")
    with Process("bench", "--url", demo.url, *options, "--out", str(out)) as process:
        before = generated(demo)
        wait_until(lambda: generated(demo) > before + 1500, 60, "requests under way")
        process.popen.send_signal(signal.SIGINT)
        run = result(process, out, code=130)
        assert "2 clients" in process.output
    assert run.interrupted
    assert any(request.status == "unfinished" for request in run.levels[0].requests)
    demo.wait_idle()
