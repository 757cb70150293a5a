"""A real request's trace explains where its time went, on every rank."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.cluster_process import serving
from tests.unit.api.traced import check_file


def test_a_trace_of_two_ranks_explains_the_latency(tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    with serving("--model", "demo", "--local-ranks", "2", "--trace", "4") as server:
        prompt = "".join(f"word{i} " for i in range(200))
        server.chat("hello", max_tokens=4)
        begun = time.monotonic()
        answer = server.chat(prompt, max_tokens=40, temperature=0, ignore_eos=True)
        took = time.monotonic() - begun
        command = [sys.executable, "-m", "cluster.cli", "trace", "--last", "--url", server.url]
        done = subprocess.run(
            [*command, "-o", str(path)], capture_output=True, text=True, timeout=60, check=True
        )
    assert "computing it" in done.stdout and str(path) in done.stdout
    told = json.loads(path.read_text())
    tracks = check_file(told)
    other = told["otherData"]
    assert other["requests"] == [answer["id"]]
    assert 0.7 * took < other["seconds"] <= took  # the client's own time is not in it
    assert other["explained"] > 0.95
    assert other["left_out"] == 0
    ranks = sorted({process for process, _ in tracks} - {"coordinator"})
    assert [rank.split()[:2] for rank in ranks] == [["rank", "0"], ["rank", "1"]]
    usage = answer["usage"]
    for rank in ranks:
        chunks = tracks[rank, "chunks"]
        assert sum(event["args"]["tokens"] for event in chunks) == usage["prompt_tokens"]
        decoded = sum(event["args"]["tokens"] for event in tracks[rank, "decode"])
        assert decoded == usage["completion_tokens"] - 1
        for event in tracks[rank, "network"]:
            # All processes of one machine have the same clock: the estimate must find that.
            if "clock_error_us" in event["args"]:
                assert abs(event["args"]["clock_ahead_us"]) <= event["args"]["clock_error_us"] + 1
