"""Nothing that is read is run: no pickle in any form, weights from safetensors only, no code of
model folders."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cluster.model import manifest, weights

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch"}
CALLS = {"eval", "exec", "compile", "__import__"}
FLAGS = {"trust_remote_code", "allow_pickle"}
FILES = re.compile(r"\.(bin|pt|pth|ckpt|pkl|pickle|npy|npz)$")


def unsafe(source: str, *also: str) -> list[str]:
    """What in a program could run data that it reads, by line; `also` are more modules."""
    tree = ast.parse(source)
    modules = MODULES | set(also)
    return [
        f"{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if any(name.split(".")[0] in modules for name in imported(node))
        or called(node) in CALLS | {"np.load", "numpy.load"}
        or any(not is_false(value) for value in flags(node))
        or (isinstance(node, ast.Constant) and FILES.search(str(node.value)))
    ]


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def flags(node: ast.AST) -> list[ast.expr]:
    """What is given for one of FLAGS, as an argument or in a dict."""
    if isinstance(node, ast.keyword):
        return [node.value] if node.arg in FLAGS else []
    if not isinstance(node, ast.Dict):
        return []
    pairs = zip(node.keys, node.values, strict=True)
    return [value for key, value in pairs if isinstance(key, ast.Constant) and key.value in FLAGS]


def is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


@pytest.mark.parametrize("package", ["api", "cluster", "scripts", "benchmarks"])
def test_nothing_that_is_read_is_run(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    # multiprocessing pickles what goes from one process to another.
    also = ("multiprocessing",) if package in {"api", "cluster"} else ()
    found = {str(file.relative_to(ROOT)): unsafe(file.read_text(), *also) for file in files}
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import json, torch.nn",
        "from torch import load",
        "def f():\n    import marshal",
        "numpy.load(f)",
        "load(f, trust_remote_code=True)",
        "load(f, trust_remote_code=x)",
        "load(f, {'trust_remote_code': True})",
        "np.fromfile(f, allow_pickle=True)",
        "eval(text)",
        "glob('pytorch_model*.bin')",
    ],
)
def test_what_would_be_found(source: str) -> None:
    assert unsafe(source)


def test_what_would_not() -> None:
    assert unsafe("load(f, {'trust_remote_code': False}); mx.eval(x); model.load(f)") == []


def test_only_safetensors_are_fetched_and_loaded() -> None:
    assert weights.PATTERN == "model*.safetensors"
    endings = {name.rpartition(".")[2] for name in manifest.NEEDED}
    assert endings == {"json", "safetensors", "model", "tiktoken", "txt", "jinja"}
