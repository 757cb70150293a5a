"""A YAML document that is read strictly: whatever is wrong is named with its line."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import yaml

from cluster.core.errors import BadConfiguration


def parse(text: str, name: str) -> Place:
    """The top of a document. Raises BadConfiguration where it is no YAML; `name` is what errors
    call it."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise BadConfiguration(f"{name} is nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadConfiguration(f"{name}{line} is no YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise BadConfiguration(f"{name} is no YAML: {error}") from error
    if root is None:
        raise BadConfiguration(f"{name} is empty")
    return Place(name, root)


class Place:
    """A value of the document, which knows where it stands. What it is asked for it is, or it
    raises BadConfiguration."""

    def __init__(self, name: str, node: Any) -> None:
        self._name = name
        self._node = node

    def wrong(self, what: str) -> BadConfiguration:
        """An error that names this line."""
        return BadConfiguration(f"{self._name} line {self._node.start_mark.line + 1}: {what}")

    def fields(self, *known: str, needed: tuple[str, ...] = ()) -> dict[str, Place]:
        """The values of a mapping with no other keys than those."""
        if not isinstance(self._node, yaml.MappingNode):
            raise self.wrong(f"this should have keys and values ({', '.join(known)})")
        found: dict[str, Place] = {}
        for key, value in self._node.value:
            here = Place(self._name, key)
            if not isinstance(key, yaml.ScalarNode) or key.value not in known:
                said = getattr(key, "value", "this")
                raise here.wrong(f"{said} is not known here: it is one of {', '.join(known)}")
            if key.value in found:
                raise here.wrong(f"{key.value} is given twice")
            found[key.value] = Place(self._name, value)
        for name in needed:
            if name not in found:
                raise self.wrong(f"{name} is missing")
        return found

    def items(self, what: str, most: int) -> list[Place]:
        """The places of a list of 1 to `most`."""
        if not isinstance(self._node, yaml.SequenceNode) or not self._node.value:
            raise self.wrong(f"this should be a list of {what}")
        if len(self._node.value) > most:
            raise self.wrong(f"{len(self._node.value)} {what}: at most {most} are looked at")
        return [Place(self._name, item) for item in self._node.value]

    @property
    def scalar(self) -> bool:
        """Neither a list nor a mapping."""
        return isinstance(self._node, yaml.ScalarNode)

    def text(self) -> str:
        """A word or more."""
        if not self.scalar or not self._node.value.strip():
            raise self.wrong("this should be a name")
        return str(self._node.value).strip()

    def number(self, *, most: float, least: float = 0.0, unit: str) -> float:
        """A number above `least`, or `least` itself where that is not 0."""
        try:
            value = float(self._node.value) if self.scalar else float("nan")
        except ValueError:
            value = float("nan")
        if not (least <= value <= most) or value <= 0:
            bounds = f"above 0 and up to {most:g}" if least == 0 else f"{least:g} to {most:g}"
            raise self.wrong(f"this should be a number of {unit}, {bounds}")
        return value

    def yes(self) -> bool:
        """True or false."""
        if not self.scalar or self._node.value not in ("true", "false"):
            raise self.wrong("this should be true or false")
        return bool(self._node.value == "true")

    def one_of(self, choices: Collection[str]) -> str:
        """One of the words that are known."""
        if self.text() not in choices:
            raise self.wrong(f"{self.text()} is none of {', '.join(choices)}")
        return self.text()
