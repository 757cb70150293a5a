"""What the ids of a model stand for, as far as two models must agree on it."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.core.errors import ModelUnavailable


def vocabulary(folder: Path) -> dict[int, str]:
    """The token behind each id, as its tokenizer.json spells it; raises ModelUnavailable when
    there is none or it can't be read."""
    path = folder / "tokenizer.json"
    try:
        parsed = json.loads(path.read_bytes())
        words = parsed["model"]["vocab"]
        # A mapping to ids; or, in unigram models, pairs with a score, in the order of ids.
        pairs = (
            words.items() if isinstance(words, dict) else ((w[0], i) for i, w in enumerate(words))
        )
        found = {int(token): str(word) for word, token in pairs}
        return found | {int(t["id"]): str(t["content"]) for t in parsed.get("added_tokens", ())}
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{folder} has no tokenizer.json to know its vocabulary by"
        ) from error
    except OSError as error:
        raise ModelUnavailable(f"can't read {path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelUnavailable(f"{path} is broken: {error!r}") from error


def difference(one: Path, other: Path) -> str:
    """How the vocabularies of two folders differ, in a few words; empty when they are the same."""
    ours, theirs = vocabulary(one), vocabulary(other)
    if ours == theirs:
        return ""
    if len(ours) != len(theirs):
        return f"{len(ours)} tokens against {len(theirs)}"
    first = min(token for token in ours if ours[token] != theirs.get(token))
    return f"token {first} is {ours[first]!r} against {theirs.get(first)!r}"
