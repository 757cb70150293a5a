from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from api.access import (
    OPEN_POLICY,
    Access,
    AccessPolicy,
    check_origins,
    host_name,
    own_names,
)
from api.caller import ANYONE, NOBODY, caller_of
from api.keys import KeyRing, add_key, digest_of
from cluster.core.clock import ManualClock
from cluster.core.errors import AccessDenied, BadConfiguration, HostRefused

HERE = frozenset({"localhost", "mini", "mini.local"})


def request(path: str = "/v1/models", **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
    return {"type": "http", "method": "POST", "path": path, "headers": raw}


@pytest.fixture
def key(tmp_path: Path) -> str:
    return add_key(tmp_path / "keys.json", "laptop", concurrency=3, per_minute=9)


@pytest.fixture
def keys(tmp_path: Path, key: str) -> KeyRing:
    return KeyRing(tmp_path / "keys.json", ManualClock())


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost:8642", "localhost.", "localhost.:1", "mini", "mini.local:8642",
        "127.0.0.1", "127.0.0.1:8642", "192.168.1.10:1", "[::1]", "[::1]:8642", "[fe80::1]:80",
        None,
    ],
)  # fmt: skip
def test_hosts_that_are_ours(host: str | None) -> None:
    headers = {} if host is None else {"host": host}
    assert AccessPolicy(hosts=HERE).admit(request(**headers)) is ANYONE


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8642", "localhost.evil.example", "127.0.0.1.evil.example",
        "mini.evil", "", ":80", "[evil]", "1270.0.0.1", "a:b:c", "localhost@evil",
    ],
)  # fmt: skip
def test_hosts_that_are_not(host: str) -> None:
    with pytest.raises(HostRefused, match="--allow-host"):
        AccessPolicy(hosts=HERE).admit(request(host=host))


@pytest.mark.parametrize(
    ("origin", "host", "admitted"),
    [
        (None, "localhost:8642", True),
        ("http://localhost:8642", "localhost:8642", True),
        ("https://mini", "mini", True),  # behind something that ends TLS
        ("http://localhost:3000", "localhost:8642", False),
        ("http://localhost", "localhost:8642", False),
        ("https://evil.example", "localhost:8642", False),
        ("https://chat.example", "localhost:8642", True),
        ("http://chat.example", "localhost:8642", False),
        ("https://chat.example:444", "localhost:8642", False),
        ("null", "localhost:8642", False),
        ("null", "", False),
        ("file://", "localhost", False),
        ("", "localhost", False),
    ],
)
def test_pages_of_other_origins(origin: str | None, host: str, admitted: bool) -> None:
    policy = AccessPolicy(hosts=HERE, origins=("https://chat.example",))
    asked = request(host=host) if origin is None else request(host=host, origin=origin)
    if admitted:
        assert policy.admit(asked) is ANYONE
    else:
        with pytest.raises(HostRefused):
            policy.admit(asked)


def test_a_page_of_no_origin_can_be_listed() -> None:
    for listed in ("null", "*"):
        AccessPolicy(hosts=HERE, origins=(listed,)).admit(request(host="mini", origin="null"))


@pytest.mark.parametrize(
    "make",
    [
        lambda key: {"authorization": f"Bearer {key}"},
        lambda key: {"authorization": f"bearer   {key} "},
        lambda key: {"x_api_key": key},
        lambda key: {"authorization": "Bearer of-something-else", "x_api_key": key},
        lambda key: {"authorization": f"Bearer {key}", "x_api_key": "unused"},
        lambda key: {"authorization": "Basic eDp5", "x_api_key": key},
    ],
)
def test_keys_are_taken_from_both_headers(keys: KeyRing, key: str, make: Any) -> None:
    caller = AccessPolicy(keys=keys).admit(request(**make(key)))
    assert (caller.name, caller.concurrency, caller.per_minute) == ("laptop", 3, 9)
    assert caller.owner == caller.cache_scope == digest_of(key.encode())[:32]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "an API key is needed"),
        ({"authorization": "Basic eDp5"}, "is needed"),
        ({"authorization": "Bearer"}, "is needed"),
        ({"authorization": "Bearer x"}, "not known"),
        ({"authorization": "Bearer \xff"}, "not known"),
        ({"x_api_key": ""}, "not known"),
    ],
)
def test_without_a_known_key(keys: KeyRing, headers: dict[str, str], reason: str) -> None:
    policy = AccessPolicy(keys=keys)
    with pytest.raises(AccessDenied, match=reason):
        policy.admit(request(**headers))
    for path in ("/metrics", "/cluster", "/docs", "/health/", "/HEALTH", "//health"):
        with pytest.raises(AccessDenied, match=reason):
            policy.admit(request(path, **headers))
    assert policy.admit(request("/health", **headers)) is NOBODY


def test_a_key_does_not_make_up_for_a_wrong_host(keys: KeyRing, key: str) -> None:
    with pytest.raises(HostRefused):
        AccessPolicy(keys=keys, hosts=HERE).admit(request(host="evil.example", x_api_key=key))


def test_a_shared_cache_is_all_that_is_shared(keys: KeyRing, key: str) -> None:
    caller = AccessPolicy(keys=keys, shared_cache=True).admit(request(x_api_key=key))
    assert caller.cache_scope == ""
    assert caller.owner


async def test_the_middleware_says_whose_a_request_is(keys: KeyRing, key: str) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(caller_of(scope).name)

    async def nothing(*_: object) -> Any:
        raise AssertionError

    for policy in (AccessPolicy(keys=keys), OPEN_POLICY):
        await Access(app, policy)(request(x_api_key=key), nothing, nothing)
    await Access(app, AccessPolicy(keys=keys))({"type": "lifespan"}, nothing, nothing)
    assert seen == ["laptop", "", ""]


def test_names_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Mini.Example.ORG")
    assert own_names("::1", "Box.lan:80", "") == {
        "localhost", "mini", "mini.example.org", "mini.local", "::1", "box.lan",
    }  # fmt: skip
    assert host_name("[::1]:80") == host_name("::1") == "::1"


@pytest.mark.parametrize(
    "origin", ["localhost:3000", "http://x/", "http://x/y", "http://", "", "http://a b", "**"]
)
def test_origins_that_no_browser_sends(origin: str) -> None:
    with pytest.raises(BadConfiguration, match="--cors"):
        check_origins([origin], keys=True)


def test_all_origins_need_keys() -> None:
    good = ["http://localhost:3000", "chrome-extension://abc", "null"]
    assert check_origins(good, keys=False) == tuple(good)
    assert check_origins(["https://Chat.Example"], keys=False) == ("https://chat.example",)
    assert check_origins(["*"], keys=True) == ("*",)
    with pytest.raises(BadConfiguration, match="--require-key"):
        check_origins(["*"], keys=False)
