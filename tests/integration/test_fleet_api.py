"""What clients see of models that are loaded when they are asked for."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.access import OPEN_POLICY, AccessPolicy
from api.app import create_app
from api.keys import KeyRing, add_key
from cluster import demo
from cluster.coordinator.fleet import Fleet
from cluster.core.clock import ManualClock
from cluster.core.view import Sample
from cluster.text.tokenizer import Tokenizer
from tests.conftest import wait_for
from tests.integration.fake_fleet import FakeEngines, fleet_of, offer
from tests.unit.api.fake import running

SAID = {"messages": [{"role": "user", "content": "Say hello"}]}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**SAID, "max_tokens": 8},
    "/v1/completions": {"prompt": "Say hello", "max_tokens": 8},
    "/v1/responses": {"input": "Say hello", "max_output_tokens": 8},
    "/v1/messages": {**SAID, "max_tokens": 8},
    "/api/chat": {**SAID, "options": {"num_predict": 8}},
    "/api/generate": {"prompt": "Say hello", "options": {"num_predict": 8}},
}
LIFE = {
    "/v1/messages": "event: ping",
    "/api/chat": '"content":""',
    "/api/generate": '"response":""',
}
BEAT = 0.05
TEXT = Tokenizer.load(demo.folder())


@asynccontextmanager
async def asked(
    monkeypatch: pytest.MonkeyPatch,
    size: int = 6,
    access: AccessPolicy = OPEN_POLICY,
    **options: Any,
) -> AsyncIterator[tuple[httpx.AsyncClient, Fleet, FakeEngines]]:
    offers = [offer("a", size), offer("b", size), offer("huge", 60)]
    async with fleet_of(monkeypatch, offers, tokenizer=TEXT, **options) as (fleet, engines):
        app = create_app(fleet, sign_of_life=BEAT, access=access)
        async with (
            running(app) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
        ):
            yield http, fleet, engines


def one(fleet: Fleet, model: str) -> Any:
    return next(view for view in fleet.models() if view.id == model)


@pytest.mark.parametrize("path", PATHS)
async def test_headers_and_signs_of_life_while_it_loads(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(monkeypatch) as (http, _, engines):
        engines.gate.clear()
        body = {**PATHS[path], "model": "b", "stream": True}
        async with http.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200  # and headers are here, though it is not
            seen = ""
            async for some in answer.aiter_text():
                seen += some
                if LIFE.get(path, ": loading b") in seen:
                    engines.gate.set()
        assert engines.gate.is_set() and engines.loads == ["a", "b"]
        last = seen.strip().splitlines()[-1]
        done = {"/v1/chat/completions": "[DONE]", "/v1/completions": "[DONE]"}
        assert done.get(path, "done" if path.startswith("/api") else "") in last or "type" in last
        assert '"error":{' not in seen and '"error": ' not in seen
        whole = await http.post(path, json={**PATHS[path], "model": "a", "stream": False})
        assert whole.status_code == 200 and whole.json()["model"] == "a"


@pytest.mark.parametrize("path", PATHS)
async def test_what_can_not_be_placed_is_refused_before_headers(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(monkeypatch) as (http, fleet, _):
        for stream in (True, False):
            body = {**PATHS[path], "model": "huge", "stream": stream}
            answer = await http.post(path, json=body)
            assert answer.status_code == 400
            assert "huge can't be placed: it needs 60 bytes, and there are 10" in answer.text
            unknown = await http.post(path, json={**body, "model": "c"})
            assert unknown.status_code == 404
        assert one(fleet, "a").state == "loaded"


async def test_who_hangs_up_while_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked(monkeypatch) as (http, fleet, engines):
        engines.gate.clear()
        for stream in (True, False):
            body = {**SAID, "model": "b", "stream": stream}
            request = asyncio.create_task(http.post("/v1/chat/completions", json=body))
            await wait_for(lambda: fleet.find("b").use().waiting == 1)
            request.cancel()
            await asyncio.wait([request])
            await wait_for(lambda: not fleet.find("b").use())
        assert one(fleet, "b").state == "loading"  # what was begun is not thrown away
        engines.gate.set()
        await wait_for(lambda: one(fleet, "b").state == "loaded")


async def test_the_list_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked(monkeypatch, keep_alive=60.0) as (http, _, _):
        listed = (await http.get("/v1/models")).json()
        assert [(m["id"], m["state"]) for m in listed["data"]] == [
            ("a", "loaded"),
            ("b", "unloaded"),
            ("huge", "unloaded"),
        ]
        ours = (await http.get("/models")).json()
        assert ours["data"] == listed["data"] and ours["keep_alive_seconds"] == 60.0
        first = ours["models"][0]
        expected = {
            "id", "state", "pinned", "default", "context", "weight_bytes", "requests",
            "idle_seconds", "progress", "error", "replicas",
        }  # fmt: skip
        assert expected <= set(first) and first["default"] and not first["pinned"]
        (replica,) = first["replicas"]
        assert set(replica) == {"replica", "epoch", "world", "kind", "health", "ranks"}
        assert set(replica["ranks"][0]) == {"rank", "node_id", "weight_bytes", "memory_bytes"}
        header = {"anthropic-version": "2023-06-01"}
        anthropic = (await http.get("/v1/models", headers=header)).json()
        assert (anthropic["first_id"], anthropic["last_id"]) == ("a", "huge")
        assert (await http.get("/v1/models/b")).json()["state"] == "unloaded"
        tokens = await http.post("/tokenize", json={"content": "hello", "model": "b"})
        assert tokens.json()["count"] > 0  # without loading it
        assert (await http.get("/v1/models/b")).json()["state"] == "unloaded"


async def test_loading_and_unloading(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked(monkeypatch) as (http, fleet, _):
        placed = (await http.get("/models/placement", params={"model": "b"})).json()
        assert placed["model"] == "b" and placed["fits"] and placed["refusal"] == ""
        (choice,) = placed["choices"]
        assert choice["chosen"] and choice["nodes"][0]["bytes_per_rank"] == 6
        assert not (await http.get("/models/placement?model=huge")).json()["fits"]
        assert (await http.get("/models/placement")).status_code == 400
        answer = await http.post("/models/load", json={"model": "b", "pin": True})
        assert answer.status_code == 202 and answer.json()["id"] == "b"
        await wait_for(lambda: one(fleet, "b").state == "loaded")
        assert one(fleet, "b").pinned
        refused = await http.post("/v1/chat/completions", json={**SAID, "model": "a"})
        assert refused.status_code == 400 and "(b pinned beside it)" in refused.text
        assert (await http.post("/models/unload", json={"model": "b"})).status_code == 200
        await wait_for(lambda: one(fleet, "b").state == "unloaded")
        assert (await http.post("/models/load", json={"model": "huge"})).status_code == 400
        assert (await http.post("/models/load", json={"model": "c"})).status_code == 404
        assert (await http.post("/models/unload", json={})).status_code == 400


async def test_ollama_loads_and_unloads(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked(monkeypatch, keep_alive=300.0) as (http, fleet, _):

        async def here() -> list[str]:
            return [each["name"] for each in (await http.get("/api/ps")).json()["models"]]

        tags = (await http.get("/api/tags")).json()["models"]
        assert [each["name"] for each in tags] == ["a", "b", "huge"]
        assert await here() == ["a"]
        loaded = await http.post("/api/generate", json={"model": "b:latest"})
        assert loaded.json()["done_reason"] == "load" and await here() == ["b"]
        ps = (await http.get("/api/ps")).json()["models"][0]
        assert not ps["expires_at"].startswith("2318")
        body = {**PATHS["/api/chat"], "model": "b", "stream": False, "keep_alive": -1}
        assert (await http.post("/api/chat", json=body)).status_code == 200
        ps = (await http.get("/api/ps")).json()["models"][0]
        assert ps["expires_at"].startswith("2318")
        gone = await http.post("/api/chat", json={"model": "b", "messages": [], "keep_alive": 0})
        assert gone.json()["done_reason"] == "unload"
        await wait_for(lambda: one(fleet, "b").state == "unloaded")
        assert one(fleet, "b").keep_alive_seconds == 300.0
        body["keep_alive"] = 0  # as long as it is used
        assert (await http.post("/api/chat", json=body)).status_code == 200
        await wait_for(lambda: one(fleet, "b").state == "unloaded")
        too_large = await http.post("/api/generate", json={"model": "huge"})
        assert too_large.status_code == 400 and "60 bytes" in json.loads(too_large.text)["error"]


async def test_counts_of_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked(monkeypatch) as (http, fleet, engines):
        engines.gate.clear()
        body = {**SAID, "model": "b", "max_tokens": 8}
        request = asyncio.create_task(http.post("/v1/chat/completions", json=body))
        await wait_for(lambda: fleet.find("b").use())
        view = (await http.get("/cluster")).json()
        assert view["model"]["id"] == "a"
        assert [each["model"] for each in view["requests"]] == ["b"]
        assert view["counters"]["journal"] == 1
        metrics = (await http.get("/metrics")).text
        assert 'model="huge"' not in metrics  # nobody has asked for it
        assert 'tandem_live_requests{model="b",phase="queued",replica="0"} 1.0' in metrics
        assert metrics.count("# TYPE tandem_live_requests gauge") == 1
        engines.gate.set()
        assert (await request).status_code == 200
        await http.post("/models/unload", json={"model": "b"})
        await wait_for(lambda: one(fleet, "b").state == "unloaded")
        kept = (await http.get("/metrics")).text
        assert 'tandem_generated_tokens_total{model="b",replica="0"} 8.0' in kept


async def test_each_group_is_seen_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked(monkeypatch, 2, ranks=2, replicas=2) as (http, fleet, engines):

        async def view(**named: Any) -> Any:
            answer = await http.get("/cluster", params=named)
            assert answer.status_code == 200, answer.text
            return answer.json()

        await wait_for(lambda: len(engines.running) == 2)
        fleet.load("b")
        await wait_for(lambda: len(engines.running) == 4)
        groups = (await view())["groups"]
        names = [(each["model"], each["replica"]) for each in groups]
        assert names == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]  # and not the one that is not here
        assert {(each["world"], each["health"]) for each in groups} == {(1, "serving")}
        assert len({each["epoch"] for each in groups}) == 4
        engines.slow.clear()
        body = {**SAID, "model": "b", "max_tokens": 8}
        requests = [
            asyncio.create_task(http.post("/v1/chat/completions", json=body)) for _ in range(3)
        ]
        await wait_for(lambda: fleet.find("b").use().running + fleet.find("b").use().waiting == 3)
        seen = []
        for group in groups:
            shown = await view(model=group["model"], replica=group["replica"])
            assert (shown["model"]["id"], shown["replica"]) == (group["model"], group["replica"])
            assert (shown["epoch"], shown["groups"]) == (group["epoch"], groups)
            assert shown["counters"]["journal"] == len(shown["requests"])
            of = {(each["model"], each["replica"]) for each in shown["requests"]}
            assert of <= {(group["model"], group["replica"])}
            (machine,) = shown["members"]
            assert (machine["ranks"], machine["held_bytes"]) == (4, 20)
            seen.append(len(shown["requests"]))
        assert seen == [0, 0, 2, 1]
        assert (await view(model="b"))["replica"] == 0
        assert (await view(replica=1))["epoch"] == groups[1]["epoch"]
        whole = await view()
        assert (whole["model"]["id"], whole["replica"]) == ("a", 0)
        assert whole["counters"]["journal"] == len(whole["requests"]) == 3
        engines.slow.set()
        assert [answer.status_code for answer in await asyncio.gather(*requests)] == [200] * 3
        unloaded = await view(model="huge")
        assert (unloaded["epoch"], unloaded["health"]["reason"]) == (0, "not loaded")


async def test_each_group_has_a_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.coordinator.trend.EVERY", math.inf)
    async with asked(monkeypatch, 2, ranks=2, replicas=2) as (http, fleet, _):
        for number, group in enumerate(fleet.default.groups, 10):
            group.trend.samples.append(Sample(number, 5.0, 1, 0.0, 0.0, 0, 0, None, None, None, ()))

        async def numbers(**named: Any) -> Any:
            return (await http.get("/history", params=named)).json()["number"]

        assert await numbers() == await numbers(model="a") == [10]
        assert await numbers(replica=1) == await numbers(after=10, replica=1) == [11]
        assert await numbers(after=11, model="a", replica=1) == []
        assert await numbers(model="b") == []


@pytest.mark.parametrize("path", ["/cluster", "/history"])
async def test_groups_that_are_not_there(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked(monkeypatch) as (http, _, _):
        for query, status, code, said in (
            ("model=nobody", 404, "model_not_found", "'nobody'"),
            ("model=b&replica=1", 404, "not_found", "b has one group, replica 0, and no replica 1"),
            ("replica=x", 400, None, "replica: must be a whole number from 0, and is 'x'"),
            ("replica=-1", 400, None, "is '-1'"),
        ):
            answer = await http.get(f"{path}?{query}")
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (status, code)
            assert said in error["message"]
            assert error["param"] == query.partition("=")[0] or "replica" in query


class TestWhoMayAct:
    ORDERS = (
        ("/models/load", {"model": "b", "pin": True}, 202),
        ("/models/unload", {"model": "b"}, 200),
        ("/api/generate", {"model": "a", "keep_alive": 0}, 200),
        ("/api/chat", {"model": "a", "messages": [], "keep_alive": 0}, 200),
        ("/cluster/drain", {"node": "nowhere"}, 404),
    )

    @pytest.fixture
    def keys(self, tmp_path: Path) -> tuple[AccessPolicy, dict[str, str], dict[str, str]]:
        path = tmp_path / "keys.json"
        ann, chief = add_key(path, "ann"), add_key(path, "chief", operator=True)
        policy = AccessPolicy(keys=KeyRing(path, ManualClock()))
        return policy, {"x-api-key": ann}, {"x-api-key": chief}

    async def test_what_concerns_others_takes_an_operator(
        self, keys: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy, ann, chief = keys
        async with asked(monkeypatch, 2, policy) as (http, fleet, _):
            for path, body, status in self.ORDERS:
                before = [(each.state, each.pinned) for each in fleet.models()]
                refused = await http.post(path, json=body, headers=ann)
                assert refused.status_code == 403, refused.text
                assert "tandem key add NAME --operator" in refused.text
                assert [(each.state, each.pinned) for each in fleet.models()] == before
                assert (await http.post(path, json=body, headers=chief)).status_code == status
                await wait_for(lambda: all(v.state in ("loaded", "unloaded") and not v.progress
                                           for v in fleet.models()))  # fmt: skip

    async def test_it_is_refused_as_each_dialect_does(
        self, keys: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy, ann, _ = keys
        async with asked(monkeypatch, 2, policy) as (http, _, _):
            body = {"model": "b"}
            ours = (await http.post("/models/load", json=body, headers=ann)).json()["error"]
            assert (ours["type"], ours["code"]) == ("invalid_request_error", "operator_only")
            headers = {**ann, "anthropic-version": "2023-06-01"}
            theirs = (await http.post("/models/load", json=body, headers=headers)).json()
            assert theirs["error"]["type"] == "permission_error"
            last = await http.post("/api/generate", json={**body, "keep_alive": 0}, headers=ann)
            assert list(last.json()) == ["error"] and "an operator's" in last.json()["error"]

    async def test_who_may_ask_has_a_model_loaded_and_not_for_longer(
        self, keys: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy, ann, chief = keys
        async with asked(monkeypatch, 2, policy, keep_alive=300.0) as (http, fleet, _):
            empty = {"model": "b", "keep_alive": -1}
            said = {**PATHS["/api/chat"], **empty, "stream": False}
            for path, body in (("/api/generate", empty), ("/api/chat", said)):
                answer = await http.post(path, json=body, headers=ann)
                assert (answer.status_code, one(fleet, "b").state) == (200, "loaded")
                assert one(fleet, "b").keep_alive_seconds == 300.0
            await http.post("/api/chat", json=said, headers=chief)
            assert one(fleet, "b").keep_alive_seconds is None
            for path in ("/models", "/models/placement?model=b", "/cluster?model=b", "/history"):
                assert (await http.get(path, headers=ann)).status_code == 200
