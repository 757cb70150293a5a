"""Prefixes kept on disk: what is there, what is to happen to it, what has happened.

Saving and restoring are steps of the plan (plan.py: Save, Restore). Reading a file ahead of its
restore, and deleting one, change nothing that ranks compute, so they go beside the steps, and
the ranks' answers come when they come. Only what every rank has confirmed counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.core.ids import Entry


@dataclass(frozen=True, slots=True)
class Shelved:
    """A prefix on disk, of which each rank holds its own part."""

    entry: Entry
    scope: str
    ids: tuple[int, ...]
    """Token ids of its positions."""
    size: int
    """Bytes of this rank's file; over all ranks, of the largest."""
    used: float = 0.0
    """When it was last written or restored, Unix time."""


class Verb(StrEnum):
    """What is done to an entry."""

    SAVE = "save"
    """Written to disk; only ever told, never ordered: a step orders it."""
    STAGE = "stage"
    """Read into memory and checked, so that a step may restore it."""
    UNSTAGE = "unstage"
    """Taken out of memory again: it will not be restored."""
    DELETE = "delete"
    """Taken from disk."""


@dataclass(frozen=True, slots=True)
class ShelfOrder:
    """To every rank. Stage is answered with a ShelfNews; unstage and delete are not."""

    verb: Verb
    entry: Entry


@dataclass(frozen=True, slots=True)
class ShelfNews:
    """From one rank, or from all of them together."""

    verb: Verb
    """SAVE or STAGE."""
    entry: Entry
    ok: bool
    size: int = 0
    """Bytes on disk."""
    full: bool = False
    """It failed for want of disk space."""
    reason: str = ""
    """Why it failed, in words."""
