"""No planted secret survives, wherever it stands; what a report is for does."""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.core.redact import (
    ADDRESS,
    CODE,
    KEY,
    PROMPT,
    Known,
    has_prompts,
    redact,
    redact_json,
    removed,
)

LINUX, MACOS, ROOT = "/home", "/Users", "/root"  # apart: no file names a person's folder
WORDS = st.text("abcXYZ019 .,;:=/_-+\"'\\\n\t{}[]()é", max_size=30)
ALNUM = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
URLSAFE = ALNUM + "-_"


def coded(size: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=size, max_size=size).map(
        lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("=")
    )


def pem(label: str) -> st.SearchStrategy[str]:
    def write(raw: bytes) -> str:
        body = base64.encodebytes(raw).decode()
        return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"

    return st.binary(min_size=60, max_size=200).map(write)


API_KEYS = coded(32).map("tdm_{}".format)
JOIN_TOKENS = coded(57).map("tdj1_{}".format)
FORMED = st.one_of(
    API_KEYS, JOIN_TOKENS, st.text(ALNUM, min_size=20, max_size=40).map("hf_{}".format)
)
NAMES = st.sampled_from(
    ["secret", "epoch_secret", "password", "token", "join_token", "api_key", "apiKey", "HF_TOKEN",
     "TANDEM_API_KEY", "x-api-key", "private_key", "Authorization"]
)  # fmt: skip
FREE = st.text(URLSAFE, min_size=8, max_size=24).filter(lambda text: text[0] not in "-_")
"""A password: it has no form to be known by."""


@given(before=WORDS, secret=FORMED, after=st.sampled_from(["", " ", "\n", '"', ", ", "\\n"]))
def test_a_secret_with_a_form_is_found_anywhere(before: str, secret: str, after: str) -> None:
    text = redact(f"{before} {secret}{after}")
    assert secret not in text
    assert secret[12:] in before or secret[12:] not in text


@given(before=WORDS, key=st.one_of(pem("PRIVATE KEY"), pem("EC PRIVATE KEY"), pem("CERTIFICATE")))
def test_a_pem_is_found_also_as_json_and_also_without_its_end(before: str, key: str) -> None:
    lines = key.splitlines()
    for shown in (key, json.dumps({"a": key}), key.rpartition("-----END")[0]):
        text = redact(f"{before}\n{shown}")
        assert not any(line in text for line in lines[1:-1] if len(line) > 8)


@given(name=NAMES, value=FREE, form=st.sampled_from(["{}={}", "{}: {}", '"{}": "{}"', "{} = '{}'"]))
def test_a_secret_without_a_form_is_found_by_its_name(name: str, value: str, form: str) -> None:
    assert value not in redact(f"before {form.format(name, value)} after").replace(name, "")


@given(
    value=FREE, form=st.sampled_from(["--token {}", "--key={}", "Bearer {}", "http://me:{}@host/"])
)
def test_a_secret_is_found_by_where_it_stands(value: str, form: str) -> None:
    assert value not in redact(f"tandem {form.format(value)} --port 1")


@given(value=st.text(min_size=4, max_size=40), before=WORDS)
@example(value='a"b\\c\nd', before="")
def test_a_known_secret_is_found_whatever_it_looks_like(value: str, before: str) -> None:
    known = Known(secrets=(value,))
    if value in KEY:
        return
    assert value not in redact(before + value, known).replace(KEY, "")
    assert value not in json.dumps(redact_json({"a": [before + value]}, known)).replace(KEY, "")


@given(secret=coded(32))
@example(secret="A--b0" + "x" * 38)
def test_an_epochs_secret_is_found_by_being_long_and_random(secret: str) -> None:
    if any(c.isupper() for c in secret) and any(c.isdigit() for c in secret):
        assert secret not in redact(f"engine refused {secret} at 127.0.0.1:41")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    around=JSON,
    prompt=st.text(ALNUM + " ", min_size=12, max_size=60),
    name=st.sampled_from(["prompt", "messages", "content", "text", "input", "system_prompt"]),
)
def test_no_prompt_survives_in_json(around: Any, prompt: str, name: str) -> None:
    planted = {"a": around, "b": [{name: [{"role": "user", "content": prompt}]}, {name: prompt}]}
    assert prompt in json.dumps(around) or prompt not in json.dumps(redact_json(planted))


def test_kinds_are_counted() -> None:
    texts = [redact("tdm_abc and tdm_def"), redact("a" * 64), "nothing"]
    assert removed(texts) == {KEY: 2, CODE: 1}
    assert redact("got eyJhbGciOi.eyJzdWI.c2lnbmVk back") == f"got {KEY} back"
    assert redact("write to ann.b@example.org now") == f"write to {ADDRESS} now"


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        (f"{LINUX}/anna/models/x and {MACOS}/anna", "~/models/x and ~"),
        (f"/var{LINUX}/anna/x:{ROOT}/y", "~/x:~/y"),
        ("/data/anna/models", "/data/[user]/models"),
        ("/srv/people/anna/x", "~/x"),
        ("Anna's disk, annapolis", "[user]'s disk, annapolis"),
        ("studio.local, STUDIO and studio-1a2b", "host-1, host-1 and host-1-1a2b"),
        ("studios beside it", "studios beside it"),
        ("mini-2 calls studio", "host-2 calls host-1"),
        ("http://localhost:8642", "http://localhost:8642"),
    ],
)  # fmt: skip
def test_people_and_machines(text: str, instead: str) -> None:
    known = Known(
        users=("anna", "root", "al"), homes=("/srv/people/anna",),
        hosts=("studio.local", "mini-2", "localhost", "m"),
    )  # fmt: skip
    assert redact(text, known) == instead


@pytest.mark.parametrize(
    "text",
    [
        "tandem_prompt_tokens_total 512",
        'tandem_step_seconds_bucket{le="0.5",rank="0"} 3',
        '{"cached_tokens": 3, "decode_tokens_per_second": 41.5, "world": 2}',
        "10.1.0.0/30 over thunderbolt, 38.2 Gb/s, en3",
        "mlx-community/Qwen3-4B-4bit at 127.0.0.1:8642",
        "tandem: keys read again keys=2",
        "2026-11-22T05:22:20.660550Z [warning  ] the engine of rank 1 was silent for 4 s",
        "/opt/tandem/.venv/lib/python3.11/site-packages/mlx/lib/libmlx.so",
        "--token-file /etc/tandem/token --key-file /etc/tandem/keys.json",
    ],
)
def test_what_a_report_is_for_stays(text: str) -> None:
    assert redact(text) == text


def test_names_in_json() -> None:
    given = {"id": "r1", "tokens": 4, "key": "k", "sha256": "ab", "messages": [], "text": "hello"}
    assert redact_json(given) == given | {"key": KEY, "sha256": KEY, "text": PROMPT}


def test_a_log_with_prompts_is_known() -> None:
    assert has_prompts("2026-11-22T05:22:20Z [info     ] body     text='{\"messages\": []}'")
    assert has_prompts('{"text": "x", "event": "body", "level": "info"}')
    assert not has_prompts("the body of the request is too large: 33 MiB")


def test_twice_changes_nothing() -> None:
    once = redact(f"token: {secrets.token_urlsafe(32)} --key abc Bearer x tdm_1 {LINUX}/a/b")
    assert redact(once) == once
