"""API keys: a file of digests that `tandem key` writes and a running server reads again.

    {"keys": [{"name": "laptop", "sha256": "9f86...", "created": 1760000000,
               "concurrency": 4, "per_minute": 60}]}

A key is 256 random bits, so one round of SHA-256 is enough to keep it at rest: slow hashes are
for passwords, which can be guessed. For the same reason a dict finds it: whoever measures the
time of a look-up learns of digests, and no digest leads back to its key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import BaseModel, ConfigDict, Field

from cluster.core.clock import Clock
from cluster.core.errors import BadConfiguration
from cluster.trust import files

log = structlog.stdlib.get_logger("tandem.api")

DEFAULT_FILE = Path("~/.config/tandem/keys.json")

LOOK_SECONDS = 1.0
"""How old what a server knows of its key file may be."""

NAME = r"[\w.-]{1,64}"

Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Key(BaseModel):
    """What the file keeps of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created: int
    """Unix time."""
    concurrency: Count | None = None
    """Requests that it may have under way; None for any number."""
    per_minute: Count | None = None
    """Requests that it may begin in a minute; None for any number."""
    operator: bool = False
    """As in Caller."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[Key, ...]


def digest_of(key: bytes) -> str:
    """What is kept of a key, in hex."""
    return hashlib.sha256(key).hexdigest()


def key_path(file: Path | None) -> Path:
    """The key file: `file`, or the one in the home folder."""
    return (file or DEFAULT_FILE).expanduser()


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file; none when there is no file. Raises BadConfiguration when it can't be
    read, is no key file, or has a name twice."""
    found = files.read(path, _File, "key file")
    keys = found.keys if found is not None else ()
    if len({key.name for key in keys}) < len(keys):
        raise BadConfiguration(f"{path} has two keys of one name")
    return keys


def add_key(
    path: Path,
    name: str,
    *,
    concurrency: int | None = None,
    per_minute: int | None = None,
    operator: bool = False,
) -> str:
    """Make a key and write down its digest; the key itself is returned and kept nowhere.

    Raises BadConfiguration when the name is taken or no name, or the file can't be written.
    """
    if not re.fullmatch(NAME, name):
        raise BadConfiguration(
            f"{name!r} is no name for a key: up to 64 letters, digits, dots, dashes and underscores"
        )
    key = f"tdm_{secrets.token_urlsafe(32)}"
    entry = Key(
        name=name,
        sha256=digest_of(key.encode()),
        created=int(time.time()),
        concurrency=concurrency,
        per_minute=per_minute,
        operator=operator,
    )
    with files.locked(path.parent):
        keys = read_keys(path)
        if any(other.name == name for other in keys):
            raise BadConfiguration(
                f"there is a key {name} already: take another name, or `tandem key revoke {name}`"
            )
        files.replace(path, _File(keys=(*keys, entry)), "key file")
    return key


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file; servers refuse it from the next second on. Raises
    BadConfiguration when there is none of that name."""
    with files.locked(path.parent):
        keys = read_keys(path)
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise BadConfiguration(f"there is no key {name} in {path}")
        files.replace(path, _File(keys=left), "key file")


class KeyRing:
    """The keys that a running server takes; follows changes of their file within LOOK_SECONDS.

    A file that has become unreadable changes nothing. One that is gone means no keys at all:
    nobody is let in.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        """Raises BadConfiguration as read_keys does."""
        self.path = path
        self._clock = clock
        self._looked = clock.now()
        self._seen = files.stamp(path)
        self._keys = _by_digest(read_keys(path))

    def __len__(self) -> int:
        self._look()
        return len(self._keys)

    def find(self, key: bytes) -> Key | None:
        """The entry of a key as a client has sent it."""
        self._look()
        return self._keys.get(digest_of(key))

    def _look(self) -> None:
        now = self._clock.now()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        seen = files.stamp(self.path)
        if seen == self._seen:
            return
        self._seen = seen  # before reading: what changes meanwhile is seen the next time
        try:
            self._keys = _by_digest(read_keys(self.path))
        except BadConfiguration as error:
            log.error("the keys stay as they were", reason=str(error))
            return
        log.info("keys read again", keys=len(self._keys))


def _by_digest(keys: Sequence[Key]) -> dict[str, Key]:
    return {key.sha256: key for key in keys}
