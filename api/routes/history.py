"""GET /history: the last hour, one sample every few seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.routes.group import group_asked
from api.routes.models import Endpoint
from api.routes.requests import number_of
from api.serving import Fleet
from api.zipped import zipped_json
from cluster.coordinator.trend import EVERY
from cluster.core.view import Sample


def history(fleet: Fleet) -> Endpoint:
    """`?after=` is the number of the last sample that the client has; `?model=` and `?replica=`
    name the group."""

    async def endpoint(request: Request) -> Response:
        after = number_of(request.query_params, "after", 0)
        model, replica = group_asked(request.query_params)
        now, samples = fleet.samples(after, model, replica or 0)
        headers = {"cache-control": "no-store"}
        return await zipped_json(request, lambda: columns(now, samples), headers)

    return endpoint


def columns(now: float, samples: Sequence[Sample]) -> dict[str, Any]:
    """One list for each field, all of the same length: a third of what objects would take."""
    return {
        "every_seconds": EVERY,
        "now": round(now, 2),
        "number": [each.number for each in samples],
        "at": [round(each.at, 2) for each in samples],
        "epoch": [each.epoch for each in samples],
        "decode_tokens_per_second": [round(each.decode_tokens_per_second, 2) for each in samples],
        "prefill_tokens_per_second": [round(each.prefill_tokens_per_second, 1) for each in samples],
        "queued": [each.queued for each in samples],
        "running": [each.running for each in samples],
        "first_token_seconds": [_rounded(each.first_token_seconds) for each in samples],
        "inter_token_seconds": [_rounded(each.inter_token_seconds) for each in samples],
        "cached_share": [_round(each.cached_share) for each in samples],
        "step_seconds": [[_round(rank) for rank in each.step_seconds] for each in samples],
        "read_bytes_per_second": [
            [rank and round(rank) for rank in each.read_bytes_per_second] for each in samples
        ],
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _rounded(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else [round(value, 5) for value in pair]
