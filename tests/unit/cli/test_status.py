from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from cluster.cli.main import build
from cluster.cli.picture import bar, duration, picture, size
from cluster.cli.status import CLUSTER
from cluster.core.cluster import Address, Blas, NodeDescription, Versions
from cluster.core.request import Phase, Progress
from cluster.core.view import (
    ClusterView,
    Counters,
    GroupView,
    Health,
    ModelView,
    RankView,
    ReplicaView,
    RequestView,
    ServedModel,
)
from tests.unit.cli.canned import CannedServer

NODE = NodeDescription(
    node_id="n1",
    hostname="mini",
    chip="Apple M4",
    cores=10,
    memory_bytes=16 << 30,
    usable_bytes=12 << 30,
    system="macOS 26.1",
    versions=Versions(1, "0.1.0", "0.32.4", "0.32.2"),
    blas=Blas("Metal", "", True, ""),
    addresses=(Address("lo0", "127.0.0.1", "loopback"), Address("en5", "10.0.0.1", "thunderbolt")),
    agent_address="10.0.0.1:8644",
)
VIEW = ClusterView(
    model=ServedModel("tandem-demo", 8192, 1_760_000_000, True, 90 << 20),
    health=Health(True, "serving"),
    epoch=3,
    world=2,
    backend="ring",
    link="thunderbolt",
    nodes=(NODE,),
    ranks=(
        RankView(0, "n1", "10.0.0.1:5000", 41, 8 << 20, 64 << 20, 70 << 20, 300 << 20, 812),
        RankView(
            1,
            "n2",
            "10.0.0.2:5000",
            42,
            8 << 20,
            64 << 20,
            70 << 20,
            300 << 20,
            811,
            4.567e11,
            True,
        ),
    ),
    requests=(
        RequestView("chatcmpl-a", Progress(Phase.PREFILL, 67580, 4096, 0), 1024, 12.0),
        RequestView("chatcmpl-b", Progress(Phase.QUEUED, 10, 0, 0), 0, 0.5),
    ),
    counters=Counters(2, 2, 1, 4, 5, 2, 0, 0),
    decode_tokens_per_second=66.64,
    prefill_tokens_per_second=327.2,
    queue_limit=128,
    steps_sent=812,
    uptime_seconds=3725.0,
)


def invoke(server: CannedServer, *options: str) -> Result:
    return CliRunner().invoke(build("status"), ["status", "--url", server.url, *options])


def as_json(view: ClusterView) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(view)))


def a_model(name: str, state: str, groups: int = 1, **fields: Any) -> ModelView:
    up = 1 if state == "loaded" else 0
    replicas = tuple(ReplicaView(n, up, up, "single", "", ()) for n in range(groups))
    base = ModelView(name, state, False, False, 8192, 1, 0, 0.0, "", "", replicas)
    return dataclasses.replace(base, **fields)


def drawn(view: ClusterView, models: tuple[ModelView, ...] = (), width: int = 160) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(picture(view, models, width))
    return capture.get()


def test_the_wire_form_reads_back_as_the_same_view() -> None:
    assert CLUSTER.validate_python(as_json(VIEW)) == VIEW


def test_everything_a_person_asks_for_is_there() -> None:
    text = drawn(VIEW)
    for fact in (
        "tandem-demo (a demo",
        "serving",
        "2 ranks, ring over thunderbolt, epoch 3, 812 steps",
        "decode 66.6 tok/s, prefill 327 tok/s",
        "2 live, of which 1 queued (at most 128); 4 prefixes kept",
        "1 h 2 min",
        "10.0.0.1 (thunderbolt)",
        "Apple M4",
        "16.0 GiB",
        "64.0 MiB",
        "70.0 MiB",
        "90.0 MiB",
        "457 GB/s, slow",
        "chatcmpl-a",
        "prefill",
        "  6%",
    ):
        assert fact in text


def test_an_orphan_token_is_called_a_bug() -> None:
    assert "bug" not in drawn(VIEW)
    counters = dataclasses.replace(VIEW.counters, orphan_tokens=1)
    assert "please report" in drawn(dataclasses.replace(VIEW, counters=counters))


def test_ranks_have_names_on_a_narrow_terminal_too() -> None:
    narrow = [line.split() for line in drawn(VIEW, width=80).splitlines()]
    assert [line[:3] for line in narrow if line[:1] in (["rank"], ["0"], ["1"])] == [
        ["rank", "node", "weights"],
        ["0", "mini", "8.0"],
        ["1", "n2", "8.0"],
    ]
    assert "endpoint" not in drawn(VIEW, width=80)
    assert "10.0.0.2:5000" in drawn(VIEW)


def test_models_and_groups_are_told_where_there_are_several() -> None:
    assert "Models" not in drawn(VIEW, (a_model("tandem-demo", "loaded"),))
    assert "2 of 2" in drawn(VIEW, (a_model("tandem-demo", "loaded", 2),))
    models = (
        a_model("tandem-demo", "loaded", pinned=True, requests=3),
        a_model("other", "loading", progress="loading other: rank 0: weights 42%"),
        a_model("broken", "failed", error="no room"),
    )
    told = drawn(VIEW, models)
    for line in (
        r"tandem-demo +loaded, pinned +1 of 1 +3",
        r"other +loading +0 of 1 +0 +loading other: rank 0: weights 42%",
        r"broken +failed +0 of 1 +0 +no room",
    ):
        assert re.search(line, told), told


def test_which_group_it_is_and_whose_requests() -> None:
    assert "replica" not in drawn(VIEW) and "group" not in drawn(VIEW)
    groups = tuple(GroupView("tandem-demo", n, n + 1, 1, "serving", 0.0) for n in range(2))
    mine, theirs = VIEW.requests
    requests = (mine, dataclasses.replace(theirs, model="other", replica=1))
    told = drawn(dataclasses.replace(VIEW, replica=1, groups=groups, requests=requests))
    assert "replica 1; others: --model, --replica" in told
    assert re.search(r"chatcmpl-b +other 1 +queued", told)


def test_another_group_is_asked_for(server: CannedServer) -> None:
    view = dataclasses.replace(VIEW, epoch=77)
    server.answers["/cluster?model=org%2Fother&replica=1"] = (200, as_json(view))
    server.answers["/cluster?replica=0"] = (404, {"error": {"message": "no such group"}})
    server.answers["/models"] = (200, {"models": [dataclasses.asdict(a_model("a", "loaded"))]})
    assert "epoch 77" in invoke(server, "--model", "org/other", "--replica", "1").stdout
    assert "no such group" in invoke(server, "--replica", "0").stderr


def test_tables_or_json(server: CannedServer) -> None:
    server.answers["/models"] = (200, {"models": []})
    server.answers["/cluster"] = (200, as_json(VIEW))
    tables = invoke(server)
    assert tables.exit_code == 0
    assert "tandem-demo" in tables.stdout
    assert json.loads(invoke(server, "--json").stdout) == as_json(VIEW)


def test_an_unhealthy_server_is_shown_and_fails(server: CannedServer) -> None:
    view = dataclasses.replace(VIEW, health=Health(False, "rank 1 is silent"), requests=())
    server.answers["/cluster"] = (200, as_json(view))
    server.answers["/models"] = (200, {"models": []})
    result = invoke(server)
    assert result.exit_code == 1
    assert "rank 1 is silent" in result.stdout
    assert "no live requests" in result.stdout


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((200, b"<html>"), "no Tandem server"),
        ((200, {"model": {}}), "the same version of tandem"),
        ((404, {}), "answered 404"),
        ((401, {"error": {"message": "a key is needed"}}), "a key is needed"),
    ],
)
def test_a_wrong_answer_is_one_line(
    server: CannedServer, answer: tuple[int, Any], line: str
) -> None:
    server.answers["/cluster"] = answer
    result = invoke(server)
    assert result.exit_code == 1
    assert line in result.stderr
    assert result.stderr.startswith("tandem: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "line"),
    [("127.0.0.1:9", "`tandem serve`"), ("ftp://x", "no address"), ("http://", "no address")],
)
def test_no_server(url: str, line: str) -> None:
    result = CliRunner().invoke(build("status"), ["status", "--url", url])
    assert result.exit_code == 1
    assert line in result.stderr


def test_watch_goes_on_when_the_server_goes_away(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/cluster"] = (200, as_json(VIEW))
    server.answers["/models"] = (200, {"models": []})
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        server.answers["/cluster"] = (503, {"error": {"message": "the model is loading"}})
        if looks == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("cluster.cli.status.time.sleep", sleep)
    result = invoke(server, "--watch")
    assert result.exit_code == 0
    assert looks == 3
    assert "the model is loading" in result.stdout


def test_units() -> None:
    assert [size(n) for n in (0, 1023, 1024, 200 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "200 MiB",
        "3.0 TiB",
    ]
    assert [duration(s) for s in (0.25, 61, 3600, 90_000)] == [
        "0.2 s",
        "1 min 1 s",
        "1 h 0 min",
        "1 d 1 h",
    ]
    assert bar(Progress(Phase.PREFILL, 0, 0, 0)).endswith("  0%")
    assert bar(Progress(Phase.DECODE, 8, 8, 1)) == "█" * 16 + " 100%"
