"""What a shell offers after `tandem`: asked of the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli.main import VERBS, asked_for

BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

BASH = """
COMP_WORDS=({words})
COMP_CWORD={at}
_tandem_completion tandem
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def script(shell: str) -> str:
    """What `tandem --install-completion` writes for a shell, asked as Homebrew does."""
    environ = ENVIRONMENT | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = ["tandem", "--show-completion", shell]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout


def run(shell: str, text: str) -> list[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [shell, "-c", text], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.split()


def in_bash(*words: str) -> list[str]:
    quoted = " ".join(f"'{word}'" for word in ("tandem", *words))
    return run("bash", script("bash") + BASH.format(words=quoted, at=len(words)))


def test_bash() -> None:
    assert in_bash("") == list(VERBS)
    assert in_bash("sta") == ["status"]
    assert in_bash("serve", "--kv-b") == ["--kv-bits"]
    assert in_bash("serve", "--port", "1", "--parallel", "p") == ["pipeline"]
    assert in_bash("token", "r") == ["revoke"]


def test_fish() -> None:
    def asked(line: str) -> list[str]:
        found = run("fish", f"{script('fish')}\ncomplete -C '{line}' | cut -f1")
        return [word for word in found if not word.endswith("/")]

    assert asked("tandem sta") == ["status"]
    assert asked("tandem serve --kv-b") == ["--kv-bits"]


def test_zsh() -> None:
    shown = "compdef() { :; }\n_arguments() { printf '%s\\n' \"$@\"; }\n"
    ask = "words=(tandem serve --kv-b)\nCURRENT=3\n_tandem_completion"
    assert "--kv-bits" in " ".join(run("zsh", f"{shown}{script('zsh')}\n{ask}"))


@pytest.mark.parametrize(
    ("arguments", "environ", "verb"),
    [
        (["tandem", "--version"], {}, None),
        (["tandem", "-x", "serve", "chat"], {}, "serve"),
        (
            ["tandem"],
            {"_TANDEM_COMPLETE": "complete_bash", "COMP_WORDS": "tandem token c"},
            "token",
        ),
        (["tandem"], {"_TANDEM_COMPLETE": "", "_TYPER_COMPLETE_ARGS": "tandem chat --u"}, "chat"),
        (["tandem"], {"_TANDEM_COMPLETE": "source_bash"}, None),
        (["tandem", "plan"], {"COMP_WORDS": "tandem chat"}, "plan"),
    ],
)
def test_the_verb_of_a_line(
    arguments: list[str], environ: dict[str, str], verb: str | None
) -> None:
    assert asked_for(arguments, environ) == verb
