"""No link of a page leads nowhere: files and headings are there, addresses are well-formed. And no
row of a table has another number of cells than its head."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)(?: \"[^\"]*\")?\)|<(https?://[^>\s]+)>")
FENCE = re.compile(r"(?ms)^( *)(```+|~~~+).*?^\1\2 *$")


def prose(text: str) -> str:
    """A page without its blocks and spans of code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def links(text: str) -> list[str]:
    return [a or b for a, b in LINK.findall(prose(text))]


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub and MkDocs both make them."""
    headings = re.findall(r"(?m)^#{1,6} +(.+?) *#*$", FENCE.sub("", text))
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", each).lower() for each in headings]
    return {re.sub(r"[^\w\- ]", "", each).strip().replace(" ", "-") for each in plain}


def fault(page: Path, target: str) -> str:
    """What is wrong with a link; empty for nothing."""
    parts = urlsplit(target)
    if parts.scheme:
        good = parts.scheme in ("http", "https") and re.fullmatch(r"[\w.-]+(:\d+)?", parts.netloc)
        return "" if good else "no address"
    file = page if not parts.path else (page.parent / unquote(parts.path))
    if not file.exists():
        return "no such file"
    if ROOT not in file.resolve().parents:
        return "outside of the repository"
    if parts.fragment and parts.fragment not in anchors(file.read_text()):
        return "no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    faults = {target: fault(page, target) for target in links(page.read_text())}
    assert {target: what for target, what in faults.items() if what} == {}


def test_every_page_of_docs_can_be_reached() -> None:
    """From the README, and by the site's menu."""
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = [urlsplit(each) for each in links(page.read_text())]
        waiting += [
            (page.parent / each.path).resolve() for each in targets if each.path and not each.scheme
        ]
    assert set(PAGES) - seen == set()
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [p for p in PAGES if str(p.relative_to(ROOT)) not in menu] == []


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("docs/access.md", ""), ("docs/none.md", "no such file"), ("#options", ""),
        ("#no-such", "no such heading"), ("docs/access.md#no-such", "no such heading"),
        ("https://example.org/a", ""), ("htp://example.org", "no address"),
        ("https:///a", "no address"),
        ("../../../etc", "outside of the repository"), ("LICENSE", ""),
    ],
)  # fmt: skip
def test_a_dead_link_is_found(target: str, what: str) -> None:
    found = fault(ROOT / "README.md", target)
    assert found == what or (what.startswith("outside") and found == "no such file")


def test_links_in_code_are_none() -> None:
    text = "a [b](c.md) `[d](e.md)`\n```\n[f](g.md)\n```\n![h](i.svg) <https://j.org>\n"
    assert links(text) == ["c.md", "i.svg", "https://j.org"]


def ragged(text: str) -> list[str]:
    """Rows of tables that have more or fewer cells than the row before."""
    found, cells = [], 0
    for line in prose(text).splitlines():
        here = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if here and cells and here != cells:
            found.append(line)
        cells = here
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_row_has_all_cells(page: Path) -> None:
    assert ragged(page.read_text()) == []


def test_a_row_that_lacks_a_cell_is_found() -> None:
    assert ragged("| a | b |\n|---|---|\n| c d |\n\n| e |\n") == ["| c d |"]
    assert ragged("| a | b |\n|---|---|\n| c `|` | d \\| e |\n\n| e |\n") == []
