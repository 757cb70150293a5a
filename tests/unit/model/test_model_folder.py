"""Model folders: found, refused with one line, told apart."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.core.errors import ModelUnavailable
from cluster.model.config import context_length, read_config
from cluster.model.digest import digest
from cluster.model.folder import model_id, resolve
from cluster.model.weights import tensor_bytes


def safetensors(tensors: dict[str, int], fill: int = 0) -> bytes:
    """A safetensors file of byte tensors of the given sizes."""
    header, offset = {}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes([fill]) * offset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "n_ctx": 77}))
    (model / "model.safetensors").write_bytes(safetensors({"a": 100_000, "b": 50_000}))
    return model


def test_a_local_folder(folder: Path) -> None:
    assert resolve(str(folder)) == folder
    assert model_id(str(folder)) == "tiny"
    assert tensor_bytes(folder) == {"a": 100_000, "b": 50_000}
    assert context_length(read_config(folder)) == 77


def test_names_for_clients() -> None:
    assert model_id("demo") == "tandem-demo"
    assert model_id("mlx-community/Qwen3-8B-4bit") == "mlx-community/Qwen3-8B-4bit"


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "~/none-at-all", "a/b/c", "no/"])
def test_a_missing_folder(name: str) -> None:
    with pytest.raises(ModelUnavailable, match="there is no folder"):
        resolve(name)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(ModelUnavailable, match="is a file"):
        resolve(str(folder / "config.json"))


def test_the_hub_out_of_reach_is_said_quickly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(ModelUnavailable) as caught:
        resolve("nobody/nothing-here")
    assert time.monotonic() - began < 10
    message = str(caught.value)
    assert message.startswith("nobody/nothing-here is neither a folder nor reachable on the Hub: ")
    assert "\n" not in message


def test_a_hub_that_never_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr("cluster.model.hub._ANSWER_SECONDS", 0.2)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        with pytest.raises(ModelUnavailable, match="nor reachable on the Hub: timed out"):
            resolve("nobody/nothing-here")


def test_a_download_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Said before a byte of it is fetched; what the cache holds already is not counted."""
    fetched: list[bool] = []

    def snapshot_download(model: str, *, dry_run: bool = False, **_: object) -> object:
        fetched.append(not dry_run)
        sizes = [(7 << 30, True), (90 << 30, False), (None, True)]
        return [SimpleNamespace(file_size=size, will_download=will) for size, will in sizes]

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(
        "huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(sha="a" * 40)
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=7 << 30))
    with pytest.raises(ModelUnavailable, match=r"7 GiB of weights .* 7 GiB are free .* HF_HOME"):
        resolve("nobody/nothing-here")
    assert fetched == [False]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "model_type"),
        (b"{}", "model_type"),
        (b'{"model_type": "llama", "model_file": "evil.py"}', "never does"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
def test_a_config_that_can_not_be_used(folder: Path, content: bytes, words: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelUnavailable, match=words):
        resolve(str(folder))


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"no config\.json"):
        resolve(str(folder))


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="no weights"):
        resolve(str(folder))


def test_missing_shards_are_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnavailable, match=r"lacks 1 .*model-00002\.safetensors"):
        resolve(str(folder))


@pytest.mark.parametrize("keep", [0, 5, 20, 1000])
def test_a_truncated_weight_file(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelUnavailable, match=r"no whole|not complete"):
        tensor_bytes(folder)
    with pytest.raises(ModelUnavailable, match=r"no whole|not complete"):
        digest(folder)


@pytest.mark.parametrize("header", [b"[1]", b'{"a": 1}', b'{"a": {"data_offsets": ["x", "y"]}}'])
def test_a_broken_header(folder: Path, header: bytes) -> None:
    raw = len(header).to_bytes(8, "little") + header
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(ModelUnavailable, match="broken header"):
        tensor_bytes(folder)


def test_context_length() -> None:
    assert context_length({"max_position_embeddings": 32768}) == 32768
    assert context_length({"text_config": {"max_position_embeddings": 99}}) == 99
    assert context_length({"text_config": {}, "max_position_embeddings": 98}) == 98
    assert context_length({"max_position_embeddings": None}) == 4096


def test_the_digest_tells_models_apart(folder: Path) -> None:
    first = digest(folder)
    assert first == digest(folder)
    (folder / "README.md").write_text("no part of the model")
    assert digest(folder) == first
    (folder / "tokenizer.json").write_text("{}")
    second = digest(folder)
    (folder / "model.safetensors").write_bytes(safetensors({"a": 100_000, "b": 50_000}, fill=1))
    assert len({first, second, digest(folder)}) == 3


def test_the_digest_is_fit_for_small_files(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(safetensors({"a": 3}))
    assert len(digest(folder)) == 64
