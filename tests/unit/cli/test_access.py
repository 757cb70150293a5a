"""Who may use a server, as the options of `tandem serve` have it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from api.access import AccessPolicy
from api.keys import add_key
from cluster.cli.access import CacheScope, access_policy
from cluster.cli.log import LogFormat, LogLevel, set_up_log
from cluster.cli.main import build
from cluster.core.errors import BadConfiguration
from tests.unit.cli.canned import CannedServer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def policy(path: Path, host: str = "127.0.0.1", **options: Any) -> AccessPolicy:
    defaults: dict[str, Any] = {
        "require_key": False,
        "allow_hosts": [],
        "origins": [],
        "cache_scope": CacheScope.KEY,
    }
    return access_policy(host, key_file=path, **{**defaults, **options})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_key_unless_asked(path: Path, host: str) -> None:
    assert policy(path, host).keys is None
    with pytest.raises(BadConfiguration, match="^clients need an API key.*`tandem key add NAME`"):
        policy(path, host, require_key=True)
    add_key(path, "a")
    assert policy(path, host).keys is None
    assert policy(path, host, require_key=True).keys is not None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.10", "mini.local"])
def test_beyond_loopback_a_key_is_needed(path: Path, host: str) -> None:
    with pytest.raises(BadConfiguration, match=f"{host} is not loopback.*`tandem key add NAME`"):
        policy(path, host)
    add_key(path, "a")
    assert policy(path, host).keys is not None


def test_names_and_pages(path: Path) -> None:
    add_key(path, "a")
    made = policy(path, "Mini.lan", allow_hosts=["host.docker.internal"])
    assert {"localhost", "mini.lan", "host.docker.internal"} <= set(made.hosts or ())
    assert "0.0.0.0" not in (policy(path, "0.0.0.0").hosts or ())
    with pytest.raises(BadConfiguration, match="--require-key"):
        policy(path, origins=["*"])
    assert policy(path, origins=["*"], require_key=True).origins == ("*",)
    assert not made.shared_cache
    assert policy(path, cache_scope=CacheScope.SHARED).shared_cache


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--host 192.0.2.1", "tandem: 192.0.2.1 is not loopback, so clients need an API key"),
        ("--tls-key x", "tandem: --tls-key needs a certificate"),
        ("--tls-cert /none.pem", "tandem: can't read /none.pem"),
        ("--cors localhost", "tandem: --cors localhost: give an origin"),
        ("--log-prompts", "tandem: --log-prompts writes at info"),
    ],
)
def test_serve_says_in_one_line_what_it_misses(path: Path, options: str, line: str) -> None:
    arguments = ["serve", "--key-file", str(path), *options.split()]
    result = CliRunner().invoke(build("serve"), arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("given", [("--key", "tdm_x"), ()])
def test_a_key_is_sent(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
) -> None:
    if not given:
        monkeypatch.setenv("TANDEM_API_KEY", "tdm_x")
    server.answers["/cluster"] = (401, {"error": {"message": "an API key is needed"}})
    result = CliRunner().invoke(build("status"), ["status", "--url", server.url, *given])
    assert server.headers[-1]["authorization"] == "Bearer tdm_x"
    assert result.exit_code == 1
    assert "TANDEM_API_KEY" in result.stderr


class TestLog:
    @pytest.fixture(autouse=True)
    def _as_before(self) -> Iterator[None]:
        root = logging.getLogger()
        level, handlers = root.level, root.handlers[:]
        yield
        structlog.reset_defaults()
        root.setLevel(level)
        root.handlers[:] = handlers

    def _write(self) -> None:
        prompt = "the-secret"
        log = structlog.stdlib.get_logger("x")
        log.info("too little")
        with structlog.contextvars.bound_contextvars(request_id="req_1"):
            log.warning("ours", a=1)
            try:
                len(prompt) / 0
            except ZeroDivisionError:
                logging.getLogger("uvicorn.error").exception("theirs")

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        set_up_log(LogLevel.WARNING, LogFormat.JSON)
        self._write()
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        assert [line["event"] for line in lines] == ["ours", "theirs"]
        assert [line["level"] for line in lines] == ["warning", "error"]
        assert [line["request_id"] for line in lines] == ["req_1"] * 2
        assert lines[1]["logger"] == "uvicorn.error"
        assert "ZeroDivisionError" in lines[1]["exception"]

    def test_text_has_no_values_of_variables(self, capsys: pytest.CaptureFixture[str]) -> None:
        set_up_log()
        self._write()
        text = capsys.readouterr().err
        assert "ours" in text and "theirs" in text and "ZeroDivisionError" in text
        assert "request_id=req_1" in text
        assert "too little" not in text
        assert "the-secret" not in text
        set_up_log(LogLevel.INFO)
        self._write()
        assert "too little" in capsys.readouterr().err
