"""What is written: JSON, HTML and tables."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from cluster.bench.compare import compare, differences
from cluster.bench.figures import as_data, summarise
from cluster.bench.load import Load
from cluster.bench.report import report
from cluster.bench.result import Run, Slo, from_json, to_json
from cluster.bench.svg import axis, nice
from cluster.bench.table import comparison, ms, number, results
from cluster.core.errors import BadConfiguration
from tests.unit.bench.levels import failed, level, request, run

OPEN = Load("open", 2.0)
RUN = run(
    level(*(request(n / 10, session=n) for n in range(40))),
    level(request(0.0, sent=0.5), failed(1.0), request(2.0, status="cancelled"), load=OPEN),
    slo=Slo(ttft=0.4),
    model="<script>alert(1)</script>",
)


def summaries(of: Run) -> list:  # type: ignore[type-arg]
    return [summarise(each, of.asked.slo) for each in of.levels]


def printed(what: RenderableType, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    console.file.close()
    return console.export_text()


def test_a_document_is_read_as_it_was_written() -> None:
    text = to_json(RUN, [as_data(summary) for summary in summaries(RUN)])
    read = from_json(text, "a.json")
    assert to_json(read, [as_data(summary) for summary in summaries(read)]) == text
    assert asdict(replace(read, levels=())) == asdict(replace(RUN, levels=()))
    assert json.loads(text)["levels"][0]["summary"]["ok"] == 40
    assert report(read, summaries(read), []) == report(RUN, summaries(RUN), [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[]", "is no result"),
        ('{"format": "other"}', "is no result"),
        ('{"format": "tandem-bench", "version": 9}', "has version 9"),
        ('{"format": "tandem-bench", "version": 1}', "is damaged at"),
    ],
)
def test_other_documents_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadConfiguration, match=f"a.json {message}"):
        from_json(text, "a.json")


class Page(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [f"{name}={value}" for name, value in attrs]


def test_the_report_is_whole_in_itself() -> None:
    text = report(RUN, summaries(RUN), ["beware <of> this"])
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & {*page.tags}
    assert not [v for v in page.values if re.match(r"(src|href|xlink:href|on\w+)=", v)]
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import", text)
    assert "&lt;script&gt;" in text and "beware &lt;of&gt; this" in text
    assert "broken &lt;b&gt;" in text
    assert "prefers-color-scheme:dark" in text and 'name="viewport"' in text
    for title in ("Throughput against latency", "Distributions", "Timeline", "Figures"):
        assert f">{title}</h2>" in text


def test_every_picture_is_well_formed_and_has_a_name() -> None:
    text = report(RUN, summaries(RUN), [])
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 3 + 4 + 2 * 2
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
        assert "nan" not in picture and "inf" not in picture


def test_a_report_of_nothing_is_a_report() -> None:
    for nothing in (run(), run(level()), run(level(failed()), level(failed()))):
        assert "</html>" in report(nothing, summaries(nothing), [])


@given(st.floats(1e-9, 1e9))
def test_ticks_are_round_and_cover_all(most: float) -> None:
    made = axis("x", most)
    assert made.ticks[0] == 0
    assert made.most >= most * (1 - 1e-9)
    assert made.most <= 1.5 * most
    assert 2 <= len(made.ticks) <= 7
    assert f"{nice(most):.0e}"[0] in "125"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.00"),
        (0.01234, "0.012"),
        (1.234, "1.23"),
        (9.999, "10.0"),
        (12.34, "12.3"),
        (99.96, "100"),
        (1234.5, "1230"),
        (123456.0, "123000"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_the_table_fits_a_terminal() -> None:
    text = printed(results(RUN, summaries(RUN), ["mind this"]))
    rows = [line for line in text.splitlines() if re.match(r"1 client|2 req/s", line)]
    assert len(rows) == 2
    assert rows[0].split()[2:6] == ["40", "0", "0", "4.00"]
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "From" not in rows[0]
    assert "Beware: mind this." in text
    assert "Good: TTFT up to 400 ms." in text
    assert re.search(r"At 2 req/s, from when it was sent: TTFT 500, 500", text)


def test_the_comparison() -> None:
    text = printed(comparison(compare(RUN, RUN), ("a.json", "b.json"), differences(RUN, RUN)))
    assert "within noise" in text
    assert "Beware" not in text
    assert "…" not in text
    assert ms(0.5) in text
