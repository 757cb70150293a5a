"""Manifests: what goes in, what is refused, and when hashes are read anew."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import demo
from cluster.core.cluster import ShardPlan
from cluster.core.errors import ModelUnavailable, ProtocolError
from cluster.core.ids import Rank
from cluster.core.manifest import CHUNK, Manifest, ModelFile, Wanted
from cluster.model import manifest as module
from cluster.model.digest import digest
from cluster.model.manifest import HashCache, check_manifest, is_needed, make_manifest
from cluster.model.store import check_room, models_folder

DIGEST = "ab" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo model as a clone of a repository would have it."""
    folder = tmp_path / "demo"
    shutil.copytree(demo.folder(), folder)
    for name in ("pytorch_model.bin", "model.pt", "evil.py", "consolidated.safetensors", ".x.json"):
        (folder / name).write_bytes(b"x")
    (folder / "original").mkdir()
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> HashCache:
    return HashCache(tmp_path / "hashes")


def made(folder: Path, cache: HashCache) -> Manifest:
    return make_manifest(folder, cache, lambda fraction: None)


def test_only_what_is_needed_goes_in(folder: Path, cache: HashCache) -> None:
    manifest = made(folder, cache)
    assert {file.name for file in manifest.files} == {
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    check_manifest(manifest)
    assert manifest.size == sum((folder / file.name).stat().st_size for file in manifest.files)


def test_the_copy_of_a_manifest_is_the_same_model(
    folder: Path, cache: HashCache, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in made(folder, cache).files:
        (copy / file.name).symlink_to(folder / file.name)  # as in the Hub's cache
    assert digest(copy) == digest(folder)
    assert made(copy, cache) == made(folder, cache)


def test_chunks(tmp_path: Path, cache: HashCache, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2 * CHUNK + 5
    folder = tmp_path / "sparse"
    shutil.copytree(demo.folder(), folder)
    with (folder / "vocab.txt").open("wb") as file:
        file.truncate(size)
    heard: list[float] = []
    (file_,) = (
        file
        for file in make_manifest(folder, cache, heard.append).files
        if file.name == "vocab.txt"
    )
    assert len(file_.hashes) == 3
    assert file_.hashes[0] == file_.hashes[1] != file_.hashes[2]
    assert [file_.length(index) for index in range(3)] == [CHUNK, CHUNK, 5]
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


@pytest.mark.parametrize("change", ["content", "size", "another file", "nothing"])
def test_hashes_are_kept_until_the_file_changes(
    folder: Path, cache: HashCache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made(folder, cache)
    path = folder / "tokenizer.json"
    stat = path.stat()
    read: list[Path] = []
    hash_chunk = module.hash_chunk
    monkeypatch.setattr(
        module, "hash_chunk", lambda file, i: (read.append(file), hash_chunk(file, i))[1]
    )
    if change == "content":
        path.write_bytes(b"y" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "size":
        path.write_bytes(b"y")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "another file":
        other = folder / "other"
        other.write_bytes(b"y" * stat.st_size)
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        other.rename(path)
    after = made(folder, cache)
    assert read == ([] if change == "nothing" else [path])
    assert (after == before) == (change == "nothing")
    assert (after.digest == before.digest) == (change == "nothing")


def test_a_broken_cache_costs_time_only(folder: Path, tmp_path: Path, cache: HashCache) -> None:
    before = made(folder, cache)
    for kept in (tmp_path / "hashes").iterdir():
        kept.write_text('{"state": 1')
    assert made(folder, cache) == before
    (tmp_path / "file").write_text("")
    assert made(folder, HashCache(tmp_path / "file")) == before


def test_a_file_that_changes_while_it_is_read(
    folder: Path, cache: HashCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_chunk(file: Path, index: int) -> bytes:
        with file.open("ab") as stream:
            stream.write(b" ")
        return b"h" * 32

    monkeypatch.setattr(module, "hash_chunk", hash_chunk)
    with pytest.raises(ModelUnavailable, match="changes while it is read"):
        made(folder, cache)


GOOD = Manifest(
    (
        ModelFile("config.json", 3, (b"h" * 32,)),
        ModelFile("model.safetensors", CHUNK + 1, (b"h" * 32,) * 2),
    )
)


@pytest.mark.parametrize(
    "name",
    [
        "../config.json", "/etc/x.json", "a/b.json", "a\\b.json", ".hidden.json", "evil.py", "",
        "x.json\0", "x.json\n", "..", "model.bin", "weights.safetensors", "ü.json",
        "a" * 255 + ".json",
    ],
)  # fmt: skip
def test_names_that_no_model_needs(name: str) -> None:
    assert not is_needed(name)
    with pytest.raises(ProtocolError, match="no model needs"):
        check_manifest(Manifest((*GOOD.files, ModelFile(name, 0, ()))))


@pytest.mark.parametrize(
    "manifest",
    [
        Manifest(()),
        Manifest(GOOD.files[:1]),
        Manifest(GOOD.files[1:]),
        Manifest((*GOOD.files, ModelFile("Config.json", 0, ()))),
        Manifest((*GOOD.files, ModelFile("a.json", 1, ()))),
        Manifest((*GOOD.files, ModelFile("a.json", 0, (b"h" * 32,)))),
        Manifest((*GOOD.files, ModelFile("a.json", 1, (b"h" * 31,)))),
        Manifest((*GOOD.files, ModelFile("a.json", 1 << 60, ()))),
        Manifest(tuple(ModelFile(f"{i}.json", 0, ()) for i in range(10_001))),
    ],
)
def test_manifests_that_make_no_sense(manifest: Manifest) -> None:
    check_manifest(GOOD)
    with pytest.raises(ProtocolError):
        check_manifest(manifest)


def test_content_is_told_apart_by_every_bit_of_a_manifest() -> None:
    config, weights = GOOD.files
    others = [
        Manifest((config, replace(weights, hashes=(b"h" * 32, b"i" * 32)))),
        Manifest((config, replace(weights, name="model2.safetensors"))),
        Manifest((replace(config, hashes=weights.hashes), replace(weights, hashes=config.hashes))),
        Manifest((config, replace(weights, size=CHUNK + 2))),
    ]
    assert len({GOOD.digest, *(other.digest for other in others)}) == 5
    assert Manifest(GOOD.files[::-1]).digest == GOOD.digest


@pytest.mark.parametrize("digest", ["", "../x", "AB" * 32, DIGEST + "0", DIGEST[:-1] + "/"])
def test_a_digest_that_is_none(digest: str) -> None:
    with pytest.raises(ProtocolError, match="no digest"):
        Wanted("demo", digest)


@pytest.mark.parametrize(
    "cut", [ShardPlan(2, Rank(2), "tensor"), ShardPlan(2, Rank(0), "../x"), ShardPlan(1, Rank(0))]
)
def test_a_part_that_is_none(cut: ShardPlan) -> None:
    with pytest.raises(ProtocolError, match="cut for rank"):
        Wanted("demo", DIGEST, cut)
    assert Wanted("demo", DIGEST, ShardPlan(4, Rank(3), "tensor", "ring")).name == (
        f"{DIGEST}-tensor-3-of-4"
    )


def test_parts_of_unequal_stages() -> None:
    plan = ShardPlan(2, Rank(0), "pipeline")
    names = {
        Wanted("demo", DIGEST, replace(plan, layers=layers)).name for layers in ((), (1, 2), (2, 1))
    }
    assert len(names) == 3
    for layers in ((1, 2, 3), (3, 0)):
        with pytest.raises(ProtocolError, match="stages for 2 ranks"):
            Wanted("demo", DIGEST, replace(plan, layers=layers))


def test_where_models_are_kept(tmp_path: Path) -> None:
    assert models_folder({"TANDEM_MODELS": str(tmp_path)}) == tmp_path
    assert models_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/tandem/models")
    assert models_folder({}) == Path.home() / ".cache" / "tandem" / "models"


def test_a_disk_that_is_too_small_says_the_numbers(tmp_path: Path) -> None:
    check_room(tmp_path, 0)
    with pytest.raises(ModelUnavailable, match=r"1\.05e\+06 GiB of weights .* GiB are free"):
        check_room(tmp_path, 1 << 50)
