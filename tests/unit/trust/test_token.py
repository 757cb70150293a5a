from __future__ import annotations

import pytest

from cluster.core.errors import BadConfiguration, NotAuthorized
from cluster.trust.token import KEPT_SECONDS, JoinToken, TokenEntry, judge, keep

FINGERPRINT = bytes(range(32))


def entry(token: JoinToken, **fields: object) -> TokenEntry:
    made = TokenEntry(id=token.id, sha256=token.digest, created=0, expires=100)
    return made.model_copy(update=fields)


def test_there_and_back() -> None:
    token = JoinToken.make(FINGERPRINT)
    text = str(token)
    assert len(text) == 81
    assert JoinToken.parse(f" {text}\n") == token
    assert JoinToken.make(FINGERPRINT) != token


def test_it_does_not_print_its_secret() -> None:
    token = JoinToken.make(FINGERPRINT)
    assert str(token)[-70:-40] not in repr(token)
    assert token.secret.hex() not in repr(token)


@pytest.mark.parametrize(
    "text", ["", "tdj1_", "hello", "tdm_" + "A" * 76, "tdj1_" + "A" * 75, "tdj1_" + "A" * 80,
             "tdj1_" + "A" * 75 + "=", "tdj1_" + "A" * 75 + "é", "tdj1_" + "A" * 75 + "+"],
)  # fmt: skip
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(BadConfiguration, match="no join token") as caught:
        JoinToken.parse(text)
    assert not text or text not in str(caught.value) or text == "tdj1_"


def test_every_changed_character_counts() -> None:
    """None of them leads back to the same token, so none is taken for it."""
    token = JoinToken.make(FINGERPRINT)
    text = str(token)
    for place in range(5, len(text)):
        letter = "A" if text[place] != "A" else "B"
        other = JoinToken.parse(text[:place] + letter + text[place + 1 :])
        assert other != token
        if other.fingerprint == token.fingerprint:
            with pytest.raises(NotAuthorized, match="not known"):
                judge([entry(token)], other, now=1)


def test_a_token_is_good_until_it_ends() -> None:
    token = JoinToken.make(FINGERPRINT)
    assert judge([entry(token)], token, now=99.9) == entry(token)
    with pytest.raises(NotAuthorized, match="has expired"):
        judge([entry(token)], token, now=100)


def test_a_token_for_one_machine_is_used_once() -> None:
    token = JoinToken.make(FINGERPRINT)
    with pytest.raises(NotAuthorized, match="used already"):
        judge([entry(token, used=5)], token, now=6)
    reusable = entry(token, used=5, reusable=True)
    assert judge([reusable], token, now=6) == reusable


def test_only_who_knows_the_secret_is_told_more() -> None:
    token = JoinToken.make(FINGERPRINT)
    guess = JoinToken(token.id, bytes(20), FINGERPRINT)
    for fields in ({}, {"used": 5}, {"expires": 0}):
        with pytest.raises(NotAuthorized, match="is not known"):
            judge([entry(token, **fields)], guess, now=6)
    with pytest.raises(NotAuthorized, match="is not known"):
        judge([], token, now=6)


def test_old_ones_are_forgotten() -> None:
    entries = [entry(JoinToken.make(FINGERPRINT), expires=end) for end in (100, 100_000)]
    assert keep(entries, 100) == tuple(entries)
    assert keep(entries, 100 + KEPT_SECONDS) == (entries[1],)
