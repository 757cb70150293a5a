"""A cluster of 64 machines with 5,000 live requests, and models to load: as the page sees it.

Real HTTP and the real endpoints over a coordinator that computes nothing. Names, and what the
model says, try to be markup.
"""

from __future__ import annotations

import itertools
import math
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.access import OPEN_POLICY, AccessPolicy
from api.app import create_app
from api.caller import Caller
from cluster.core.cluster import Address, Blas, NodeDescription, Versions
from cluster.core.facts import Pair
from cluster.core.ids import new_request_id
from cluster.core.request import Phase, Progress
from cluster.core.view import (
    ClusterView,
    Counters,
    EpochView,
    MemberView,
    RankView,
    RequestView,
    Sample,
)
from cluster.text.tokenizer import Tokenizer
from tests.unit.api.fake import FakeCoordinator, Script

NODES, REQUESTS = 64, 5000
GIB = 1 << 30
EVIL = "<img src=x onerror=window.pwned=1><script>window.pwned=1</script>"
SAID = f"""{EVIL}

# {EVIL}

[click](javascript:window.pwned=1) [data](data:text/html,{EVIL}) ![x](https://other.example/x.png)
<https://other.example/> `{EVIL}` **{EVIL}**

| {EVIL} | b |
|---|---|
| <iframe src="javascript:window.pwned=1"> | <a href="javascript:1">x</a> |

```html{EVIL}
{EVIL}
```

```html
{EVIL}</code></pre>{EVIL}
```
"""


class LargeCluster(FakeCoordinator):
    """Everything moves a little from one look to the next."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.model = replace(self.model, id=f"org/{EVIL}", rank_bytes=40 * GIB)
        said: Script = [SAID[at : at + 7] for at in range(0, len(SAID), 7)]
        self.script = said
        self.looks = itertools.count()
        self.ids = [new_request_id("chatcmpl") for _ in range(REQUESTS)]
        self.sampled = [_sample(number) for number in range(1, 721)]

    def requests(self) -> tuple[RequestView, ...]:
        look = next(self.looks)
        made = (_request(str(each), n, look) for n, each in enumerate(self.ids))
        return (*made, *super().requests())

    def samples(self, after: int) -> tuple[float, list[Sample]]:
        _, found = super().samples(after)
        return 3600.0, found

    def view(self) -> ClusterView:
        look = next(self.looks)
        return ClusterView(
            model=self.model,
            health=self.healthy,
            epoch=7,
            world=NODES,
            backend="jaccl",
            link="thunderbolt",
            nodes=tuple(map(_node, range(NODES))),
            ranks=tuple(_rank(number, look) for number in range(NODES)),
            requests=(),
            counters=Counters(REQUESTS, REQUESTS, 16, 4, 0, REQUESTS, 0, 0),
            decode_tokens_per_second=900 + look % 50,
            prefill_tokens_per_second=8000 + look % 500,
            queue_limit=128,
            steps_sent=look * 10,
            uptime_seconds=look * 1.0,
            members=tuple(
                MemberView(f"n{n}", _name(n), "alive" if n % 9 else "suspect", n == 5, 1)
                for n in range(NODES)
            ),
            history=(EpochView(6, NODES, 3600.0, f"EngineCrashed: {EVIL}", 6.5),),
            links=tuple(
                Pair(_name(a), _name(b), "thunderbolt", 9.0 + (a + b) % 5, 38.0 - (a + b) % 7)
                for a, b in itertools.permutations(range(NODES), 2)
            ),
        )


def _name(number: int) -> str:
    return f"{EVIL}studio-{number}" if number == 3 else f"studio-{number}.local"


def _node(number: int) -> NodeDescription:
    return NodeDescription(
        node_id=f"n{number}",
        hostname=_name(number),
        chip="M3 Ultra",
        cores=32,
        memory_bytes=512 * GIB,
        usable_bytes=480 * GIB,
        system="macOS 26.2",
        versions=Versions(1, "", "", ""),
        blas=Blas("Metal", "", True, ""),
        addresses=(Address("en5", f"10.0.0.{number}", "thunderbolt"),),
        agent_address=f"10.0.0.{number}:1",
    )


def _rank(number: int, look: int) -> RankView:
    used = 150 * GIB + (look + number) % 20 * GIB
    speed = 7e11 / (1.6 if number == 17 else 1)
    return RankView(
        number, f"n{number}", "", 100 + number, 120 * GIB, used, used, 0, look, speed, number == 17
    )


def _request(name: str, number: int, look: int) -> RequestView:
    phase = (Phase.QUEUED, Phase.PREFILL, Phase.DECODE, Phase.DECODE)[number % 4]
    made = (look * 3 + number) % 900 if phase is Phase.DECODE else 0
    filled = {Phase.QUEUED: 0, Phase.PREFILL: (look * 512 + number) % 30_000}.get(phase, 30_000)
    progress = Progress(phase, 30_000, filled, made)
    return RequestView(name, progress, number % 30_000, look * 0.1 + number, made / 10)


def _sample(number: int) -> Sample:
    wave = 1 + math.sin(number / 40)
    steps = tuple(0.02 * (1.6 if rank == 17 else 1) + rank * 1e-5 for rank in range(NODES))
    return Sample(
        number, number * 5.0, 7, 700 * wave, 9000 * wave, int(40 * wave), 16,
        (0.3 * wave, 1.2 * wave), (0.02, 0.05), 0.5 * wave, steps,
        tuple(7e11 / (1.6 if rank == 17 else 1) for rank in range(NODES)) if number % 3 else (),
    )  # fmt: skip


class Loader:
    """`/models` and what belongs to it, over models that load in three looks."""

    def __init__(self) -> None:
        self.states = {"org/small": "loaded", "org/large": "unloaded", f"org/{EVIL}": "failed"}
        self.looks = 0

    def routes(self) -> list[Route]:
        return [
            Route("/models", self.list, methods=["GET"]),
            Route("/models/load", self.load, methods=["POST"]),
            Route("/models/unload", self.unload, methods=["POST"]),
            Route("/models/placement", self.placement, methods=["GET"]),
        ]

    async def list(self, request: Request) -> Response:
        self.looks += 1
        if self.looks > 2:
            for name, state in self.states.items():
                if state == "loading":
                    self.states[name] = "loaded"
        made = [self._model(name) for name in self.states]
        return JSONResponse({"models": made, "keep_alive_seconds": 300.0})

    async def load(self, request: Request) -> Response:
        name = (await request.json())["model"]
        self.states[name], self.looks = "loading", 0
        return JSONResponse(self._model(name), status_code=202)

    async def unload(self, request: Request) -> Response:
        name = (await request.json())["model"]
        self.states[name] = "unloaded"
        return JSONResponse(self._model(name))

    async def placement(self, request: Request) -> Response:
        name = request.query_params["model"]
        fits = "huge" not in name
        nodes = [
            {"node_id": f"n{n}", "hostname": _name(n), "ranks": 1, "bytes_per_rank": need * GIB,
             "usable_bytes": 480 * GIB}
            for n, need in ((0, 300 if fits else 600), (1, 300 if fits else 600))
        ]  # fmt: skip
        choice = {"world": 2, "kind": "tensor", "fits": fits, "reason": "", "chosen": fits,
                  "predicted_decode": 21.5, "predicted_prefill": 310.0, "nodes": nodes}  # fmt: skip
        small = {**choice, "world": 1, "kind": "single", "fits": False, "chosen": False,
                 "reason": "needs 600 GiB, 480 GiB are usable", "nodes": nodes[:1]}  # fmt: skip
        refusal = "" if fits else "needs 600 GiB on each rank, and 480 GiB are usable"
        body = {"model": name, "fits": fits, "refusal": refusal, "choices": [choice, small]}
        return JSONResponse(body)

    def _model(self, name: str) -> dict[str, Any]:
        state = self.states[name]
        ranks = [
            {"rank": n, "node_id": f"n{n}", "weight_bytes": 120 * GIB, "memory_bytes": 150 * GIB}
            for n in range(2)
        ]
        replica = {"replica": 0, "epoch": 7, "world": 2, "kind": "tensor", "health": "serving",
                   "ranks": ranks}  # fmt: skip
        return {
            "id": name, "state": state, "pinned": False, "default": name == "org/small",
            "context": 32768, "weight_bytes": 240 * GIB, "requests": 3, "idle_seconds": 12.0,
            "progress": "fetching weights 42 %" if state == "loading" else "",
            "error": EVIL if state == "failed" else "",
            "replicas": [replica] if state == "loaded" else [],
        }  # fmt: skip


def large_app(
    tokenizer: Tokenizer, held: ExitStack, access: AccessPolicy = OPEN_POLICY
) -> Starlette:
    """The API over all of it; `held` is left when the server is."""
    coordinator = LargeCluster(tokenizer)
    app = create_app(coordinator, access=access)
    live = app.state.service.live
    for number, each in enumerate(coordinator.ids):
        held.enter_context(live.entered(each, Caller(f"key-{number % 7}"), "OpenAI chat"))
    app.router.routes[:0] = Loader().routes()
    return app
