"""Dockerfile and compose file: the linter's verdict, and what both must agree upon."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.conftest import DEPLOY, options

FILE = DEPLOY / "docker" / "Dockerfile"
ROOT = DEPLOY.parent
SERVICE_KEYS = {
    "image", "build", "environment", "init", "restart", "stop_grace_period", "read_only", "tmpfs",
    "cap_drop", "security_opt", "command", "ports", "volumes", "networks", "deploy", "healthcheck",
}  # fmt: skip
"""Of the Compose specification: those that are in use here."""


def substituted(text: str, **values: str) -> str:
    """`${NAME:-default}` and `${NAME:?error}` as Compose fills them in."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        assert kind == ":-" or name in values, f"{name} is not set: {rest}"
        return values.get(name) or rest

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", value, text)


@pytest.fixture
def compose() -> dict[str, Any]:
    text = (DEPLOY / "docker" / "compose.yaml").read_text()
    loaded = yaml.safe_load(substituted(text, TANDEM_JOIN_TOKEN="secret", TANDEM_WORKERS="3"))
    assert isinstance(loaded, dict)
    return loaded


def test_the_linter_has_nothing_to_say(lint: Any) -> None:
    done = lint("hadolint", FILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_would_say_it(lint: Any, tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text(FILE.read_text().replace("--no-install-recommends", ""))
    done = lint("hadolint", bad)
    assert done.returncode == 1
    assert "DL3015" in done.stdout


def test_what_is_copied_exists_and_is_let_through() -> None:
    ignored = FILE.with_suffix(".dockerignore").read_text().split()
    let = {line[1:] for line in ignored if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", FILE.read_text(), re.MULTILINE):
        copied |= set(line.split())
    assert copied == let
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_runs_as_nobody_special_and_knows_its_ports() -> None:
    text = FILE.read_text()
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert re.search(r"^EXPOSE 8642 8643 8644$", text, re.MULTILINE)
    entry = text.rindex("ENTRYPOINT")
    assert "http://127.0.0.1:8642/health" in text[:entry]
    assert options(["serve"])["port"] == 8642
    assert options(["worker"])["port"] == 8644


def test_a_coordinator_and_its_workers(compose: dict[str, Any]) -> None:
    assert set(compose) == {"x-tandem", "services", "volumes", "networks"}
    coordinator, worker = compose["services"]["coordinator"], compose["services"]["worker"]
    served, joined = options(coordinator["command"]), options(worker["command"])
    address = coordinator["networks"]["cluster"]["ipv4_address"]
    assert served["control"] == address
    assert joined["join"] == f"{address}:8643"
    assert served["nodes"] == str(worker["deploy"]["replicas"]) == "3"
    assert coordinator["ports"] == ["127.0.0.1:8642:8642"]
    (subnet,) = compose["networks"]["cluster"]["ipam"]["config"]
    assert address.startswith(subnet["subnet"].removesuffix("0/24"))


def test_services_are_complete_and_hardened(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service) <= SERVICE_KEYS
        assert service["environment"] == {"TANDEM_JOIN_TOKEN": "secret"}
        assert service["read_only"] and service["init"]
        assert (service["cap_drop"], service["tmpfs"]) == (["ALL"], ["/tmp"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        context = DEPLOY / "docker" / service["build"]["context"]
        assert context.resolve() == ROOT
        assert (context / service["build"]["dockerfile"]).resolve() == FILE
        volumes = {volume.partition(":")[0] for volume in service["volumes"]}
        assert volumes <= set(compose["volumes"])


def test_no_token_no_cluster() -> None:
    with pytest.raises(AssertionError, match="TANDEM_JOIN_TOKEN"):
        substituted((DEPLOY / "docker" / "compose.yaml").read_text())
