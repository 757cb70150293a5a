from __future__ import annotations

import gzip
import json

import pytest
from starlette.requests import Request

from api.zipped import LEAST, takes_gzip, zipped_json


def request(accepts: str | None) -> Request:
    headers = [] if accepts is None else [(b"accept-encoding", accepts.encode())]
    return Request({"type": "http", "headers": headers})


@pytest.mark.parametrize(
    ("accepts", "takes"),
    [
        (None, False), ("", False), ("identity", False), ("br", False), ("gzipped", False),
        ("gzip", True), ("GZIP", True), ("br, gzip", True), ("gzip;q=0.5, br", True),
        ("gzip;q=1.0", True), ("gzip;q=0", False), ("gzip; q=0.00, br", False),
    ],
)  # fmt: skip
def test_who_takes_it(accepts: str | None, takes: bool) -> None:
    assert takes_gzip(request(accepts)) is takes


async def test_only_what_is_long_is_compressed() -> None:
    for text in ("", "x" * (LEAST - 2), "x" * LEAST):
        answer = await zipped_json(request("gzip"), lambda text=text: text, {"x-kept": "yes"})  # type: ignore[misc]
        zipped = len(text) >= LEAST - 2
        assert (answer.headers.get("content-encoding") == "gzip") is zipped
        body = gzip.decompress(answer.body) if zipped else bytes(answer.body)
        assert json.loads(body) == text
        assert int(answer.headers["content-length"]) == len(answer.body)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-kept"] == "yes"
