from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

from cluster.cli.main import VERBS, _one_line_errors, build
from cluster.core.errors import CannotShard, NodeUnreachable, NotAuthorized


def run_raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return _one_line_errors(function)


def exit_code(function: Callable[[], None]) -> int:
    with pytest.raises(typer.Exit) as left:
        function()
    return left.value.exit_code


def test_version() -> None:
    result = CliRunner().invoke(build(None), ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"tandem {version('tandem')}\n"


def test_help_names_every_verb() -> None:
    result = CliRunner().invoke(build(None), ["--help"])
    assert result.exit_code == 0
    assert all(f" {verb} " in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_summary_that_the_list_shows(verb: str) -> None:
    function = getattr(importlib.import_module(f"cluster.cli.{verb}"), verb)
    assert function.__doc__.splitlines()[0] == VERBS[verb]
    assert CliRunner().invoke(build(verb), [verb, "--help"]).exit_code == 0


def test_an_unknown_verb_is_a_usage_error() -> None:
    result = CliRunner().invoke(build("wrker"), ["wrker"])
    assert result.exit_code == 2
    assert "worker" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    heavy = ["anyio", "grpc", "httpx", "mlx", "mlx_lm", "pydantic", "transformers", "uvicorn"]
    code = (
        "import sys; from cluster.cli.main import build; build(None)\n"
        f"sys.exit(' '.join(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(run_raising(CannotShard("4 heads\n don't split over 3"))) == 1
    assert capsys.readouterr().err == "tandem: 4 heads don't split over 3\n"


def test_errors_of_a_task_group_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    inner = ExceptionGroup("", [NodeUnreachable("a is away"), NodeUnreachable("a is away")])
    group = ExceptionGroup("", [inner, NotAuthorized("wrong token")])
    assert exit_code(run_raising(group)) == 1
    assert capsys.readouterr().err == "tandem: a is away\ntandem: wrong token\n"


def test_ctrl_c_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(run_raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "bug", [ZeroDivisionError(), ExceptionGroup("", [NotAuthorized(""), ZeroDivisionError()])]
)
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        run_raising(bug)()
