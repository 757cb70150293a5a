"""Which group is asked for: `?model=` and `?replica=`."""

from __future__ import annotations

from starlette.datastructures import QueryParams

from api.routes.requests import number_of


def group_asked(asked: QueryParams) -> tuple[str | None, int | None]:
    """Model and replica; None for what is not named. Raises InvalidRequest."""
    replica = number_of(asked, "replica", 0) if asked.get("replica") else None
    return asked.get("model") or None, replica
