"""The models that `tandem serve` is to know: where they are, and what they would be served with."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.cli.drafting import DraftFolder, draft_folder
from cluster.coordinator.epoch import Recipe
from cluster.coordinator.paths import Paths
from cluster.coordinator.served import Forms, Offer
from cluster.core.errors import BadConfiguration, ModelUnavailable, SetupError
from cluster.core.view import ServedModel
from cluster.model.config import context_length, read_config
from cluster.model.digest import digest
from cluster.model.folder import DEMO, model_id, resolve
from cluster.model.weights import PATTERN, tensor_bytes
from cluster.placement.kv import check_kv_bits
from cluster.placement.shard import check_plan

KEEP_ALIVE = 300.0
"""Seconds; what Ollama keeps a model for."""

_PARTS = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)?")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}

Former = Callable[[ServedModel, Path, DraftFolder | None], Callable[[Paths], Forms]]
"""Makes what says what machines can serve together of one model."""


def keep_alive_seconds(text: str) -> float | None:
    """What --keep-alive says: seconds, or 90s, 5m, 1h30m; None, for ever, where it is negative.
    Raises BadConfiguration."""
    if text.startswith("-") and _PARTS.fullmatch(text[1:]):
        return None
    parts = _PARTS.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise BadConfiguration(f"--keep-alive {text}: give seconds, a time such as 5m, or -1")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def models_in(folder: Path) -> tuple[str, ...]:
    """The folders in it that are models, with config.json and weights, by name; of links, the
    names of the links. Raises BadConfiguration where there are none."""
    try:
        entries = sorted(folder.expanduser().absolute().iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise BadConfiguration(f"--models-dir {folder}: {error.strerror}") from error
    found = tuple(str(entry) for entry in entries if _is_model(entry))
    if not found:
        raise BadConfiguration(
            f"--models-dir {folder}: no folder in it is a model (config.json and {PATTERN})"
        )
    return found


def _is_model(path: Path) -> bool:
    try:
        return (path / "config.json").is_file() and any(path.glob(PATTERN))
    except OSError:  # what we may not read, a disk's lost+found for one
        return False


def read_offers(
    models: Sequence[str],
    former: Former,
    *,
    found: Sequence[str] = (),
    tell: Callable[[str], None],
    draft_model: str,
    kv_dir: str,
    disk_bytes: int,
    kv_bits: int,
    world: int,
    parallel: str,
) -> list[Offer]:
    """Look at each model, which is fetched where it is not on disk, and then at those `found` in
    a folder. `draft_model` drafts for the first of all; `world` is how many ranks that is to have
    at the start. Raises ModelUnavailable, CannotShard, BadConfiguration; of those found that can't
    be served, `tell` gets a line instead."""
    incarnation = time.time_ns()

    def read(model: str, name: str, *, first: bool) -> Offer:
        folder = resolve(model)
        config = read_config(folder)
        if first:
            check_plan(config, world, parallel)
        check_kv_bits(config, kv_bits)
        draft = draft_folder(draft_model, model, folder) if draft_model and first else None
        recipe = Recipe(
            model=anywhere(model),
            digest=digest(folder),
            incarnation=incarnation,
            kv_dir=kv_dir,
            disk_bytes=disk_bytes,
            kv_bits=kv_bits,
            draft_model=anywhere(draft_model) if draft else "",
            draft_digest=draft.digest if draft else "",
        )
        served = ServedModel(
            id=name,
            context=context_length(config),
            created=int(time.time()),
            demo=model == DEMO,
            draft=model_id(draft_model) if draft else "",
        )
        weights = sum(tensor_bytes(folder).values())
        return Offer(served, folder, recipe, former(served, folder, draft), weights)

    offers = [read(each, model_id(each), first=not place) for place, each in enumerate(models)]
    names = {offer.model.id for offer in offers}
    for each in found:
        if (name := Path(each).name) in names:  # the one that was named counts
            continue
        try:
            offers.append(read(each, name, first=not offers))
        except SetupError as error:
            if not offers and not isinstance(error, ModelUnavailable):
                raise  # it would be the first one, and is whole: the options don't fit it
            tell(f"{name} is left out: {error}")
    if not offers:
        raise ModelUnavailable("no model of --models-dir can be served")
    return offers


def anywhere(model: str) -> str:
    """The model as every machine understands it: a folder by its whole path, which must be the
    same on all; a Hub id or "demo" as it is, for each to find by itself."""
    is_folder = model != DEMO and Path(model).exists()
    return str(Path(model).absolute()) if is_folder else model
