"""The Thunderbolt script against stand-ins for macOS's tools that print recorded outputs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploy.conftest import DEPLOY

SCRIPT = DEPLOY / "thunderbolt" / "setup"
RECORDED = Path(__file__).parent.parent / "node" / "recorded"
STAND_INS = {
    "networksetup": """case $1 in
        -listallhardwareports) cat "$RECORDED/hardwareports.txt" ;;
        -listnetworkserviceorder) cat "$STATE/serviceorder.txt" ;;
        -getnetworkserviceenabled) cat "$STATE/bridge" ;;
        *) echo "networksetup $* without sudo" >> "$STATE/changed"; exit 9 ;;
    esac""",
    "ifconfig": """case $# in
        0) cat "$STATE/ifconfig.txt" ;;
        1) awk -v name="$1:" '/^[a-z]/ { on = $1 == name } on' "$STATE/ifconfig.txt" ;;
        *) echo "ifconfig $* without sudo" >> "$STATE/changed"; exit 9 ;;
    esac""",
    "rdma_ctl": "echo disabled",
    "ibv_devices": 'echo "    device  node GUID"',
    # As it was typed: each word on its own, so that blanks in names can be seen.
    "sudo": """printf '%s|' "$@" >> "$STATE/changed"; echo >> "$STATE/changed" """,
}
SOCKETS = {"en2": "Thunderbolt 1", "en3": "Thunderbolt 2", "en4": "Thunderbolt 3"}
SET_UP = [
    'sudo networksetup -setnetworkserviceenabled "Thunderbolt Bridge" off',
    *[
        line
        for device, name in SOCKETS.items()
        for line in (
            f"sudo ifconfig bridge0 deletem {device}",
            f'sudo networksetup -createnetworkservice "Tandem {name}" "{name}"',
            f'sudo networksetup -setdhcp "Tandem {name}"',
        )
    ],
]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A Mac as it comes: all three sockets in the bridge."""
    for name in ("serviceorder.txt", "ifconfig.txt"):
        (tmp_path / name).write_text((RECORDED / name).read_text())
    (tmp_path / "bridge").write_text("Enabled\n")
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return tmp_path


@pytest.fixture
def run(state: Path) -> Run:
    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{state / 'bin'}:{os.environ['PATH']}"
        environ = {"PATH": path, "STATE": str(state), "RECORDED": str(RECORDED)}
        return subprocess.run(
            ["sh", SCRIPT, *arguments], capture_output=True, text=True, env=environ, check=False
        )

    return script


def commands(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert (done.returncode, done.stderr) == (0, "")
    return [line.strip() for line in done.stdout.splitlines() if line.startswith("  sudo ")]


def changed(state: Path) -> list[str]:
    """What was run, as it would be typed."""
    try:
        lines = (state / "changed").read_text().splitlines()
    except FileNotFoundError:
        return []
    typed = [line.removesuffix("|").split("|") for line in lines]
    return [
        "sudo " + " ".join(f'"{word}"' if " " in word else word for word in words)
        for words in typed
    ]


def make_ready(state: Path) -> None:
    """The state that --apply leaves."""
    (state / "bridge").write_text("Disabled\n")
    text = (state / "ifconfig.txt").read_text()
    kept = [line for line in text.splitlines() if "member:" not in line and "ifmaxaddr" not in line]
    (state / "ifconfig.txt").write_text("\n".join(kept) + "\n")
    with (state / "serviceorder.txt").open("a") as file:
        for number, (device, name) in enumerate(SOCKETS.items(), 4):
            file.write(f"({number}) Tandem {name}\n(Hardware Port: {name}, Device: {device})\n\n")


def test_shellcheck(lint: Any) -> None:
    done = lint("shellcheck", SCRIPT)
    assert (done.returncode, done.stdout) == (0, "")
    assert os.access(SCRIPT, os.X_OK)


def test_it_shows_and_changes_nothing(run: Run, state: Path) -> None:
    done = run()
    assert commands(done) == SET_UP
    assert changed(state) == []
    assert "Thunderbolt Bridge: Enabled" in done.stdout
    assert "Thunderbolt 1 (en2): in bridge0, no service, no address" in done.stdout
    assert "RDMA: disabled" in done.stdout
    assert "Would change" in done.stdout
    assert "rdma_ctl enable" in done.stdout


def test_apply_runs_what_was_shown_and_only_that(run: Run, state: Path) -> None:
    shown = commands(run())
    assert commands(run("--apply")) == shown == changed(state)


def test_a_failed_command_ends_it(run: Run, state: Path) -> None:
    (state / "bin" / "sudo").write_text("#!/bin/sh\necho no >> $STATE/changed; exit 1\n")
    assert run("--apply").returncode == 1
    assert (state / "changed").read_text() == "no\n"


def test_ready_is_left_alone(run: Run, state: Path) -> None:
    make_ready(state)
    done = run("--apply")
    assert commands(done) == changed(state) == []
    assert "nothing: it is as it should be" in done.stdout


def test_addresses(run: Run, state: Path) -> None:
    make_ready(state)
    done = run("--address", "en2=10.9.0.1", "--address", "en3=10.9.1.1/24")
    assert commands(done) == [
        'sudo networksetup -setmanual "Tandem Thunderbolt 1" 10.9.0.1 255.255.255.252',
        'sudo networksetup -setmanual "Tandem Thunderbolt 2" 10.9.1.1 255.255.255.0',
    ]
    text = (state / "ifconfig.txt").read_text()
    address = "\tinet 10.9.0.1 netmask 0xfffffffc\n\tstatus: active\nbridge0"
    (state / "ifconfig.txt").write_text(text.replace("\tstatus: active\nbridge0", address))
    assert commands(run("--address", "en2=10.9.0.1/30")) == []


def test_services_of_others_are_left_alone(run: Run, state: Path) -> None:
    make_ready(state)
    order = state / "serviceorder.txt"
    order.write_text(order.read_text().replace("(4) Tandem Thunderbolt 1", "(*) My cable"))
    done = run("--address", "en2=10.9.0.1", "--apply")
    assert commands(done) == changed(state) == []
    assert "My cable is not of this script" in done.stdout


def test_revert(run: Run, state: Path) -> None:
    assert commands(run("--revert")) == []  # nothing was ever changed
    make_ready(state)
    shown = commands(run("--revert"))
    assert changed(state) == []
    assert shown == [
        *[
            line
            for device, name in SOCKETS.items()
            for line in (
                f'sudo networksetup -removenetworkservice "Tandem {name}"',
                f"sudo ifconfig bridge0 addm {device}",
            )
        ],
        'sudo networksetup -setnetworkserviceenabled "Thunderbolt Bridge" on',
    ]
    assert commands(run("--revert", "--apply")) == shown == changed(state)


def test_a_mac_without_bridge_or_rdma(run: Run, state: Path) -> None:
    make_ready(state)
    (state / "bridge").write_text("Thunderbolt Bridge is not a recognized network service.\n")
    (state / "bin" / "rdma_ctl").unlink()
    (state / "bin" / "ibv_devices").unlink()
    done = run()
    assert commands(done) == []
    assert "Thunderbolt Bridge: none" in done.stdout
    assert "it comes with macOS 26.2" in done.stdout
    assert not any("bridge0" in line for line in commands(run("--revert")))


@pytest.mark.parametrize("wrong", [["--aply"], ["--address"], ["--address", "en2"]])
def test_what_it_does_not_understand_changes_nothing(
    run: Run, state: Path, wrong: list[str]
) -> None:
    done = run(*wrong)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert changed(state) == []


def test_elsewhere_it_says_so(run: Run, state: Path) -> None:
    (state / "bin" / "networksetup").unlink()
    done = run("--apply")
    assert done.returncode == 1
    assert "for macOS" in done.stderr
