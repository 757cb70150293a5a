"""`tandem token` and `tandem node`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cluster.cli.main import build
from cluster.cli.serve import trust_folder
from cluster.cli.token import parse_time
from cluster.core.errors import BadConfiguration
from cluster.trust.authority import Authority
from cluster.trust.identity import DEFAULT_FOLDER, Draft
from cluster.trust.token import JoinToken


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANDEM_TRUST", str(tmp_path))
    return tmp_path


def tandem(line: str) -> Result:
    return CliRunner().invoke(build(line.split()[0]), line.split())


def test_a_token_is_printed_alone(folder: Path) -> None:
    result = tandem("token create --expires 12h --reusable")
    assert result.exit_code == 0
    token = JoinToken.parse(result.stdout)
    assert result.stdout == f"{token}\n" and "tandem worker --join" in result.stderr
    (entry,) = Authority.open(folder).tokens()
    assert (entry.id, entry.reusable) == (token.id, True)
    assert entry.expires - entry.created == 12 * 3600


def test_tokens_are_listed_and_revoked(folder: Path) -> None:
    assert "no tokens" in tandem("token list").stderr
    token = JoinToken.parse(tandem("token create").stdout)
    listed = tandem("token list").stdout
    assert token.id in listed and "one machine" in listed and "valid" in listed
    assert str(token)[15:] not in listed
    assert tandem(f"token revoke {token.id}").exit_code == 0
    again = tandem(f"token revoke {token.id}")
    assert (again.exit_code, again.stderr) == (1, f"tandem: there is no join token {token.id}\n")


def test_machines_are_listed_and_revoked(folder: Path) -> None:
    assert "no machine has joined" in tandem("node list").stderr
    authority = Authority.open(folder)
    name = authority.enroll(str(authority.create_token(60)), Draft().request, "studio").node
    assert "valid" in tandem("node list").stdout
    assert tandem(f"node revoke {name}").exit_code == 0
    assert "revoked" in tandem("node list").stdout
    assert tandem("node revoke studio").exit_code == 1


@pytest.mark.parametrize(
    "line",
    ["token revoke", "token list 1", "token list --reusable", "token revoke 1 --expires 1h",
     "token create x", "token create --expires 0m", "node revoke", "node list a"],
)  # fmt: skip
def test_what_makes_no_sense(folder: Path, line: str) -> None:
    result = tandem(line)
    assert result.exit_code == 1
    assert result.stderr.startswith("tandem: ") and result.stderr.count("\n") == 1
    assert not list(folder.iterdir())


def test_times() -> None:
    assert [parse_time(text) for text in ("90s", "30m", "12h", "7d")] == [90, 1800, 43200, 604800]
    for text in ("", "1", "h", "-1h", "1.5h", "0d", "366d", "1w", "١h"):
        with pytest.raises(BadConfiguration, match="is no time"):
            parse_time(text)


def test_when_a_cluster_needs_certificates() -> None:
    given = Path("/trust")
    assert trust_folder(None, "127.0.0.1", ()) is None
    assert trust_folder(None, "127.0.0.1", ("127.0.0.2:8644",)) is None
    assert trust_folder(None, "192.168.1.10", ()) == DEFAULT_FOLDER
    assert trust_folder(None, "127.0.0.1", ("192.168.1.11:8644",)) == DEFAULT_FOLDER
    assert trust_folder(given, "127.0.0.1", ()) == given
