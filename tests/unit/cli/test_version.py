from __future__ import annotations

import json

from typer.testing import CliRunner

from cluster.cli.main import build
from cluster.core.versions import versions


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build("version"), ["version", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_lines_have_a_name_and_a_value() -> None:
    rows = dict(line.split("  ", 1) for line in run().splitlines())
    assert rows["tandem"].strip() == f"{versions().tandem}, protocol {versions().protocol}"
    assert rows["mlx"].strip() == versions().mlx
    assert all(value.strip() for value in rows.values())


def test_json_has_the_same() -> None:
    found = json.loads(run("--json"))
    assert found["tandem"] == versions().tandem
    assert found["packages"]["mlx-lm"] == versions().mlx_lm
    assert f"{found['chip']}, {found['cores']} cores" in run()
