"""What is known of a model before any weight is read."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.core.errors import ModelUnavailable
from cluster.model.folder import describe, resolve
from cluster.model.weights import tensor_bytes

CONFIG = {"model_type": "llama", "hidden_size": 64}
COMMIT = "a" * 40
_HEADER = json.dumps({"w": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}).encode()
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors": len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(8),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A Hub with one model; the paths that it was asked for."""
    paths: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            files = [{"type": "file", "path": n, "size": len(FILES[n]), "oid": n} for n in FILES]
            siblings = [{"rfilename": name} for name in FILES]
            info = {"id": "some/model", "sha": COMMIT, "siblings": siblings}
            about = json.dumps(files if "/tree/" in self.path else info).encode()
            name = self.path.rpartition("/")[2]
            body = about if self.path.startswith("/api/") else FILES[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{name}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    try:
        yield paths
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_of_a_model_on_the_hub_only_the_config_is_fetched(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describe("some/model") == (CONFIG, None)
    files = {path for path in asked if not path.startswith("/api/")}
    assert len(files) == 1
    assert files.pop().endswith("/config.json")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert describe("some/model") == (CONFIG, None), "from disk, where the Hub is out of reach"


def test_a_model_from_the_hub_is_found_again_offline(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve("some/model")
    assert tensor_bytes(folder) == {"w": 8}
    assert any(path.endswith("/model.safetensors") for path in asked)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert resolve("some/model") == folder


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelUnavailable, match="neither a folder nor reachable on the Hub") as it:
        describe("nobody/nothing-here")
    assert "\n" not in str(it.value)


def test_a_config_alone(tmp_path: Path) -> None:
    path = tmp_path / "qwen.json"
    path.write_text(json.dumps(CONFIG))
    assert describe(str(path)) == (CONFIG, None)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert describe(str(tmp_path)) == (CONFIG, None), "a folder without weights will do"


def test_headers_of_weight_files_are_exact() -> None:
    config, sizes = describe("demo")
    assert config["model_type"] == "llama"
    assert sizes
    assert sum(sizes.values()) > 1 << 20


@pytest.mark.parametrize("name", ["/no/such/file.json", "a/b/c", "x" * 5000])
def test_what_is_not_there(name: str) -> None:
    with pytest.raises(ModelUnavailable):
        describe(name)
