"""A server that is started again goes on from the prefixes it has kept on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.cluster_process import Server, serving, wait_until

RANKS = 2
GOOD, BAD = (f"A {kind} prompt, of which every word has to be read. " * 20 for kind in "xy")
"""What is kept of one stays as it is; what is kept of the other is damaged."""


def ask(server: Server, prompt: str) -> tuple[str, int, int]:
    """The answer, and how many tokens of the prompt there are, and were there already."""
    answer = server.chat(prompt, max_tokens=12, temperature=0)
    usage: dict[str, Any] = answer["usage"]
    text: str = answer["choices"][0]["message"]["content"]
    return text, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def kept(folder: Path, prompts: int) -> list[Path]:
    """The files, once each rank has one for each prompt and none is being written."""
    files = list(folder.rglob("*.safetensors"))
    by_rank = Counter(path.parent for path in files)
    whole = len(by_rank) == RANKS and set(by_rank.values()) == {prompts}
    return files if whole and not list(folder.rglob(".*.tmp")) else []


def test_the_same_prompt_after_a_restart(
    tmp_path: Path, random_model: Callable[[str], Path]
) -> None:
    options = ("--model", str(random_model("qwen3")), "--local-ranks", str(RANKS))
    options += ("--kv-dir", str(tmp_path / "kv"), "--kv-disk-gb", "0.5")
    with serving(*options) as server:
        good, prompt, cached = ask(server, GOOD)
        assert prompt > 200
        assert cached == 0
        before = wait_until(lambda: kept(tmp_path / "kv", 1), 20, "the prefix is kept")
        bad, _, cached = ask(server, BAD)
        assert cached < 20  # both begin alike
        both = wait_until(lambda: kept(tmp_path / "kv", 2), 20, "the other is kept")
    path = next(path for path in both if path not in before)
    data = bytearray(path.read_bytes())  # one rank's part is enough
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with serving(*options) as server:
        again, _, cached = ask(server, GOOD)
        assert again == good
        assert prompt - cached < 32
        again, _, cached = ask(server, BAD)
        assert again == bad
        assert cached < 20
        assert "its checksum is wrong" in server.output
        wait_until(lambda: kept(tmp_path / "kv", 2), 20, "a good one takes its place")
    with serving(*options) as server:
        again, _, cached = ask(server, BAD)
        assert again == bad
        assert prompt - cached < 32


def test_a_folder_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Server("--kv-dir", str(tmp_path / "file")) as server:
        assert server.popen.wait(60) == 1
        (line,) = (line for line in server.output.splitlines() if "--kv-dir" in line)
        assert line.startswith("tandem: prefixes can't be kept in ")
        assert "Traceback" not in server.output
