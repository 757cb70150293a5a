"""A model folder's own code is never run, whoever is asked and whatever they answer."""

from __future__ import annotations

import builtins
import json
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.core.errors import ModelUnavailable
from cluster.text.tokenizer import Tokenizer
from tests.unit.text.bpe import make_folder

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import PreTrainedTokenizerFast
class OwnTokenizer(PreTrainedTokenizerFast): pass
"""


@pytest.mark.parametrize("fast", [True, False])
def test_a_tokenizers_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    folder, marker = make_folder(tmp_path / "model"), tmp_path / "it-was-run"
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) if file.exists() else {}
    names = [None, "own.OwnTokenizer"] if fast else ["own.OwnTokenizer", None]
    config |= {"auto_map": {"AutoTokenizer": names}, "tokenizer_class": "OwnTokenizer"}
    file.write_text(json.dumps(config))
    asked: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda text="": asked.append(text) or "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with suppress(ModelUnavailable):
        Tokenizer.load(folder)
    assert not marker.exists()
    assert asked == []
