from __future__ import annotations

import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.core.errors import BadConfiguration, NotAuthorized
from cluster.trust import certificate, node, token
from cluster.trust.authority import Authority, Issued
from cluster.trust.certificate import Role
from cluster.trust.identity import (
    Draft,
    Identity,
    IdentityFile,
    read_identity,
    write_identity,
)
from cluster.trust.token import JoinToken

DAY = 86400.0


class Wall:
    """A clock on the wall."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def authority(tmp_path: Path, wall: Wall) -> Authority:
    return Authority.open(tmp_path / "trust", wall)


def join(authority: Authority, text: str, hostname: str = "Studio.local") -> Issued:
    return authority.enroll(text, Draft().request, hostname)


def refused(authority: Authority, text: str, why: str) -> None:
    before = authority.nodes()
    with pytest.raises(NotAuthorized, match=why) as caught:
        join(authority, text)
    assert len(text) < 10 or text[-60:] not in str(caught.value)
    assert authority.nodes() == before


def test_it_is_made_once_and_its_owner_alone_reads_it(authority: Authority) -> None:
    again = Authority.open(authority.folder)
    assert again.certificate == authority.certificate
    authority.create_token(60)
    authority.renew_own()
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700
    files = sorted(path.name for path in authority.folder.iterdir())
    assert files == [
        "authority.json", "coordinator.json", "local.json", "nodes.json", "tokens.json",
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in authority.folder.iterdir()} == {0o600}


def test_a_token_buys_a_certificate(authority: Authority) -> None:
    made = authority.create_token(60)
    draft = Draft()
    issued = authority.enroll(str(made), draft.request, "Studio Two.local")
    identity = draft.finish(issued.certificate, issued.authority, "10.0.0.1:8643", made.id)
    assert identity.name.id == issued.node
    assert identity.name.role is Role.NODE
    assert identity.name.cluster == authority.cluster
    assert issued.node.startswith("studio-two-")
    assert [entry.id for entry in authority.nodes()] == [issued.node]
    assert not authority.is_revoked(issued.node)


@pytest.mark.parametrize("hostname", ["", "..", "-" * 300, "тандем", "../../etc", "A" * 1000])
def test_the_id_is_ours_to_choose(authority: Authority, hostname: str) -> None:
    issued = join(authority, str(authority.create_token(60)), hostname)
    assert len(issued.node) <= 41
    assert certificate.name_of(certificate.load(issued.certificate)).id == issued.node


def test_two_machines_of_one_name_are_two(authority: Authority) -> None:
    text = str(authority.create_token(60, reusable=True))
    assert join(authority, text).node != join(authority, text).node


def test_a_token_is_kept_as_its_digest(authority: Authority) -> None:
    made = authority.create_token(60)
    kept = (authority.folder / "tokens.json").read_text()
    assert made.id in kept and made.secret.hex() not in kept and str(made) not in kept


def test_tokens_that_are_refused(authority: Authority, wall: Wall, tmp_path: Path) -> None:
    other = Authority.open(tmp_path / "other", wall)
    refused(authority, str(other.create_token(60)), "not known")
    refused(authority, "nonsense", "no join token")
    made = authority.create_token(60)
    refused(authority, str(JoinToken(made.id, bytes(20), made.fingerprint)), "not known")
    join(authority, str(made))
    refused(authority, str(made), "used already")
    late = authority.create_token(60)
    revoked = authority.create_token(60)
    authority.revoke_token(revoked.id)
    refused(authority, str(revoked), "not known")
    wall.now += 60
    refused(authority, str(late), "has expired")


def test_a_bad_request_does_not_use_the_token_up(authority: Authority) -> None:
    made = authority.create_token(60)
    with pytest.raises(NotAuthorized):
        authority.enroll(str(made), b"nonsense", "a")
    join(authority, str(made))


def test_a_token_for_one_machine_is_good_for_one_of_many_at_a_time(authority: Authority) -> None:
    text = str(authority.create_token(60))
    beside = Authority.open(authority.folder, authority._wall)  # as another process would be
    start = threading.Barrier(8)

    def attempt(number: int) -> str:
        start.wait(10)
        try:
            return join(beside if number % 2 else authority, text).node
        except NotAuthorized as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(attempt, range(8)))
    (entry,) = authority.nodes()
    answers.remove(entry.id)
    assert set(answers) == {"the join token was used already, and is good for one machine"}


def test_tokens_are_bounded_and_ended_ones_go(
    authority: Authority, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token, "MOST_TOKENS", 3)
    for _ in range(3):
        authority.create_token(60)
    with pytest.raises(BadConfiguration, match="there are 3 join tokens"):
        authority.create_token(60)
    wall.now += 60 + token.KEPT_SECONDS
    authority.create_token(60)
    assert len(authority.tokens()) == 1
    with pytest.raises(BadConfiguration, match="no join token"):
        authority.revoke_token("0" * 10)


def test_machines_are_bounded(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "MOST_NODES", 1)
    text = str(authority.create_token(60, reusable=True))
    join(authority, text)
    refused(authority, text, "has 1 machines already")


def test_a_certificate_is_renewed_for_the_same_machine(authority: Authority, wall: Wall) -> None:
    issued = join(authority, str(authority.create_token(60)))
    wall.now += 15 * DAY
    draft = Draft()
    again = authority.renew(issued.node, draft.request)
    identity = draft.finish(again.certificate, again.authority, "", "")
    assert identity.name.id == issued.node
    assert identity.expires == pytest.approx(wall.now + 30 * DAY, abs=1)
    (entry,) = authority.nodes()
    assert entry.expires == int(identity.expires)
    assert entry.joined == 1_800_000_000


def test_a_revoked_machine(authority: Authority, wall: Wall) -> None:
    text = str(authority.create_token(60, reusable=True))
    first, second = join(authority, text).node, join(authority, text).node
    cli = Authority.open(authority.folder, wall)
    assert not authority.is_revoked(first)
    assert authority.revoked() == frozenset()
    cli.revoke_node(first)
    wall.now += 1
    assert authority.is_revoked(first)
    assert authority.revoked() == {first}
    assert authority.trouble(first) == f"{first} was revoked"
    assert not authority.is_revoked(second)
    with pytest.raises(NotAuthorized, match=f"{first} was revoked"):
        authority.renew(first, Draft().request)
    join(authority, text)
    assert authority.is_revoked(first)
    with pytest.raises(BadConfiguration, match="there is no machine nobody"):
        cli.revoke_node("nobody")


def test_who_is_not_listed_is_refused(authority: Authority, wall: Wall) -> None:
    """A list that is lost lets nobody in; one that is damaged changes nothing."""
    name = join(authority, str(authority.create_token(60))).node
    assert not authority.is_revoked(name)
    path = authority.folder / "nodes.json"
    path.write_text("{")
    wall.now += 1
    assert not authority.is_revoked(name)
    path.unlink()
    wall.now += 1
    assert authority.trouble(name) == f"{name} is not one of this cluster's machines"


def test_machines_are_forgotten_with_their_last_certificate(
    authority: Authority, wall: Wall
) -> None:
    name = join(authority, str(authority.create_token(60))).node
    authority.revoke_node(name)
    wall.now += 29 * DAY
    join(authority, str(authority.create_token(60)))
    assert len(authority.nodes()) == 2
    wall.now += 1 * DAY + 1
    join(authority, str(authority.create_token(60)))
    assert name not in [entry.id for entry in authority.nodes()]


def test_our_own_certificates_are_renewed_at_half_of_their_life(
    authority: Authority, wall: Wall
) -> None:
    def own() -> list[Identity]:
        names = ("coordinator.json", "local.json")
        found = [read_identity(authority.folder / name) for name in names]
        return [identity for identity in found if identity is not None]

    authority.renew_own()
    first = own()
    assert [identity.name.role for identity in first] == [Role.COORDINATOR, Role.NODE]
    wall.now += 15 * DAY - 1
    authority.renew_own()
    assert own() == first
    wall.now += 2
    authority.renew_own()
    second = own()
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert [identity.name for identity in first] == [identity.name for identity in second]
    assert not authority.is_revoked(second[1].name.id)


def test_a_new_authority_replaces_our_own_certificates(authority: Authority, wall: Wall) -> None:
    authority.renew_own()
    (authority.folder / "authority.json").unlink()
    new = Authority.open(authority.folder, wall)
    new.renew_own()
    identity = read_identity(new.folder / "coordinator.json")
    assert identity is not None and identity.name.cluster == new.cluster != authority.cluster


class TestIdentityFile:
    @pytest.fixture
    def path(self, authority: Authority) -> Path:
        authority.renew_own()
        return authority.folder / "coordinator.json"

    def test_a_renewed_one_is_taken_up(self, authority: Authority, wall: Wall, path: Path) -> None:
        file = IdentityFile(path)
        first = file.current()
        assert file.current() is first
        wall.now += 16 * DAY
        authority.renew_own()
        assert file.current().expires > first.expires

    def test_a_damaged_one_changes_nothing(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = IdentityFile(path)
        first = file.current()
        path.write_text("{}")
        assert file.current() is first
        assert file.current() is first
        assert len(caplog.records) == 1
        path.unlink()
        assert file.current() is first

    def test_a_key_that_does_not_fit_is_refused(self, path: Path) -> None:
        fields = json.loads(path.read_text())
        fields["key"] = certificate.key_pem(certificate.make_key())
        path.write_text(json.dumps(fields))
        with pytest.raises(BadConfiguration, match="for another key") as caught:
            read_identity(path)
        assert "PRIVATE" not in str(caught.value)

    def test_there_must_be_one(self, tmp_path: Path) -> None:
        assert read_identity(tmp_path / "none.json") is None
        with pytest.raises(BadConfiguration, match="there is no identity file"):
            IdentityFile(tmp_path / "none.json")

    def test_it_is_its_owners_alone(self, path: Path, tmp_path: Path) -> None:
        identity = IdentityFile(path).current()
        copy = tmp_path / "new" / "node.json"
        write_identity(copy, identity)
        assert read_identity(copy) == identity
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert identity.key not in repr(identity) and "PRIVATE" not in repr(identity)
