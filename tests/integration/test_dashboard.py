"""What the dashboard is served with, and what it asks for."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from api.access import AccessPolicy
from api.keys import KeyRing, add_key
from api.routes.page import built
from cluster.core.clock import ManualClock
from cluster.core.view import Sample
from tests.conftest import wait_for
from tests.unit.api.fake import CHAT, FakeCoordinator, Gate, question, serving

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
async def http(coordinator: FakeCoordinator) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(coordinator, access=AccessPolicy(hosts=frozenset({"localhost"}))) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


async def test_browsers_get_the_page_and_others_the_greeting(http: httpx.AsyncClient) -> None:
    page = await http.get("/", headers=HTML)
    assert page.headers["content-type"].startswith("text/html")
    assert '<div id="app">' in page.text
    for headers in ({"accept": "*/*"}, {"accept": "application/json"}):
        greeting = await http.get("/", headers=headers)
        assert greeting.text.startswith("Ollama is running")
        assert greeting.headers["vary"] == page.headers["vary"] == "Accept, Accept-Encoding"


async def test_the_policy_lets_the_page_s_own_files_run_and_nothing_else(
    http: httpx.AsyncClient,
) -> None:
    page = await http.get("/", headers=HTML)
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in page.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["trusted-types"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    # Nothing inline, which the policy would stop, and nothing from elsewhere.
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|style=", page.text)
    for found in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert found.startswith(("/assets/", "data:image/svg+xml")), found


async def test_files_are_kept_for_ever_and_the_page_is_asked_for(http: httpx.AsyncClient) -> None:
    page = await http.get("/", headers=HTML)
    assert page.headers["cache-control"] == "no-cache"
    again = await http.get("/", headers={**HTML, "if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    names = re.findall(r'"(/assets/[^"]+)"', page.text)
    assert len(names) == 2
    for name in names:
        found = await http.get(name, headers={"accept-encoding": "gzip"})
        assert found.headers["content-encoding"] == "gzip"
        assert "immutable" in found.headers["cache-control"]
        assert found.headers["content-type"].startswith(("text/javascript", "text/css"))
        plain = await http.get(name, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == found.content == built()[name[1:]].content
        assert gzip.decompress(built()[name[1:]].zipped) == plain.content
    assert sum(len(each.content) for each in built().values()) < 300_000


async def test_there_is_no_other_file(http: httpx.AsyncClient) -> None:
    for name in ("nothing.js", "..%2findex.html", "%2e%2e%2f__init__.py"):
        assert (await http.get(f"/assets/{name}")).status_code == 404


async def test_a_stranger_s_name_gets_no_page(http: httpx.AsyncClient) -> None:
    assert (await http.get("/", headers={**HTML, "host": "evil.example"})).status_code == 403


async def test_samples_as_columns(http: httpx.AsyncClient, coordinator: FakeCoordinator) -> None:
    coordinator.sampled = [
        Sample(1, 5.0, 0, 0.0, 0.0, 0, 0, None, None, None, ()),
        Sample(
            2,
            10.0,
            1,
            12.345,
            99.0,
            3,
            2,
            (0.1, 0.2),
            (0.01, 0.02),
            0.5,
            (0.001, None),
            (4.5e11, None),
        ),
    ]
    found = (await http.get("/history")).json()
    assert found["number"] == [1, 2]
    assert found["first_token_seconds"] == [None, [0.1, 0.2]]
    assert found["step_seconds"] == [[], [0.001, None]]
    assert found["read_bytes_per_second"] == [[], [450_000_000_000, None]]
    lists = [value for value in found.values() if isinstance(value, list)]
    assert {len(each) for each in lists} == {2}
    assert (await http.get("/history?after=1")).json()["number"] == [2]
    assert (await http.get("/history?after=x")).status_code == 400


async def test_a_long_history_is_sent_compressed_to_who_takes_it(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    steps = tuple(0.02 + rank * 1e-4 for rank in range(64))
    coordinator.sampled = [
        Sample(n, n * 5.0, 1, 1.0, 2.0, 0, 1, (0.1, 0.2), (0.01, 0.02), 0.5, steps)
        for n in range(1, 41)
    ]
    zipped = await http.get("/history", headers={"accept-encoding": "br, gzip"})
    plain = await http.get("/history", headers={"accept-encoding": "identity"})
    refused = await http.get("/history", headers={"accept-encoding": "gzip;q=0"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.headers["content-type"] == plain.headers["content-type"] == "application/json"
    assert int(zipped.headers["content-length"]) * 4 < int(plain.headers["content-length"])
    for answer in (plain, refused):
        assert "content-encoding" not in answer.headers
        assert answer.content == zipped.content  # which the client has unpacked
    assert {each.headers["vary"] for each in (zipped, plain)} == {"Accept-Encoding"}
    short = await http.get("/history?after=39", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in short.headers and short.json()["number"] == [40]


async def test_streams_are_never_compressed(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    coordinator.script = ["word "] * 2000
    headers = {"accept-encoding": "gzip"}
    async with http.stream("POST", CHAT, json=question(stream=True), headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in answer.headers
        assert b"word " in b"".join([some async for some in answer.aiter_raw()])


class TestKeys:
    async def test_the_page_needs_none_and_what_it_shows_does(
        self, coordinator: FakeCoordinator, tmp_path: Path
    ) -> None:
        add_key(tmp_path / "keys.json", "laptop")
        access = AccessPolicy(keys=KeyRing(tmp_path / "keys.json", ManualClock()))
        async with (
            serving(coordinator, access=access) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
        ):
            page = await http.get("/", headers=HTML)
            assert page.status_code == 200
            (name, *_) = re.findall(r'"(/assets/[^"]+)"', page.text)
            assert (await http.get(name)).status_code == 200
            for path in ("/requests", "/history", "/cluster", "/v1/models", "/assets"):
                assert (await http.get(path)).status_code == 401

    async def test_a_key_sees_and_cancels_its_own_and_an_operator_all(
        self, coordinator: FakeCoordinator, tmp_path: Path
    ) -> None:
        path = tmp_path / "keys.json"
        ann, bob = add_key(path, "ann"), add_key(path, "bob")
        chief = add_key(path, "chief", operator=True)
        gate = Gate()
        coordinator.script = ["Hel", gate, "lo"]
        access = AccessPolicy(keys=KeyRing(path, ManualClock()))
        async with (
            serving(coordinator, access=access) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
        ):

            def by(key: str) -> dict[str, str]:
                return {"x-api-key": key}

            async with http.stream(
                "POST", CHAT, json=question(stream=True), headers=by(ann)
            ) as answer:
                await wait_for(lambda: gate.reached)
                (name,) = [each.id for each in coordinator.generations]
                for key, seen in ((ann, [name]), (bob, []), (chief, [name])):
                    found = (await http.get("/requests", headers=by(key))).json()
                    assert [each["id"] for each in found["requests"]] == seen
                    assert found["phases"]["decode"] == 1
                    view = (await http.get("/cluster", headers=by(key))).json()
                    assert [each["id"] for each in view["requests"]] == seen
                (shown,) = (await http.get("/requests", headers=by(chief))).json()["requests"]
                assert (shown["key"], shown["dialect"]) == ("ann", "OpenAI chat")
                cancel = f"/v1/cancel/{name}"
                assert (await http.post(cancel, headers=by(bob))).status_code == 404
                assert (await http.post(cancel, headers=by(chief))).status_code == 200
                await answer.aread()
        assert coordinator.generations[0].finish == "cancelled"


async def test_what_grows_can_be_left_out(
    http: httpx.AsyncClient, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = [gate]
    async with http.stream("POST", CHAT, json=question(stream=True)):
        await wait_for(lambda: gate.reached)
        assert len((await http.get("/cluster")).json()["requests"]) == 1
        assert (await http.get("/cluster?without=requests,links")).json()["requests"] == []
        gate.open()
