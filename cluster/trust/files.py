"""Small files that several processes share: read whole, replaced whole, changed one at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cluster.core.errors import BadConfiguration

M = TypeVar("M", bound=BaseModel)

Stamp = tuple[int, int, int] | None


def read(path: Path, kind: type[M], what: str) -> M | None:
    """What a file of JSON holds; None when there is none. Raises BadConfiguration when it can't
    be read or is no `what`, without a word of its content: that may be secret."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadConfiguration(f"can't read the {what} {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadConfiguration(
            f"{path} is no {what}: {where + ': ' if where else ''}{first['msg']}"
        ) from error


def replace(path: Path, content: BaseModel, what: str) -> None:
    """Replace a file as a whole, so that no reader ever sees a half of it; only its owner can
    read it. Raises BadConfiguration."""
    text = content.model_dump_json(indent=2, exclude_none=True)
    target = path.resolve()  # a link stays a link
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        raise BadConfiguration(f"can't write the {what} {path}: {error.strerror}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone among those who change the files of a folder, which is made if missing. The lock is
    the folder's: files are replaced."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise BadConfiguration(f"can't use the folder {folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def stamp(path: Path) -> Stamp:
    """What changes when the file does; None while it can't be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
