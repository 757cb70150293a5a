"""Colours and type of the report, in light and in dark."""

from __future__ import annotations

STYLE = """
:root{--ground:#fff;--text:#1b1f24;--quiet:#5c6670;--rule:#e2e6ea;--one:#2a6fc9;--two:#c4621a;
--bad:#c62f3b;--waiting:#b9c2cc;--beware:#fff6e0;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ground:#15181c;--text:#e6e9ed;--quiet:#9aa5b1;
--rule:#2c333b;--one:#6ea8f0;--two:#f0995a;--bad:#ff6b76;--waiting:#4d5865;--beware:#332b16}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--text);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:980px;margin:0 auto;padding:20px 16px 40px}
h1{font-size:1.5rem;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:32px 0 8px}
header p,.note{margin:2px 0;color:var(--quiet);overflow-wrap:anywhere}
.beware{background:var(--beware);border-radius:8px;padding:1px 16px 4px;margin-top:20px}
.beware h2{margin-top:12px}.beware ul{padding-left:18px}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:4px 9px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
thead th{color:var(--quiet);font-weight:600;vertical-align:bottom}
tbody th,th[scope=row]{text-align:left;font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:20px}
figure{margin:8px 0}
figcaption{font-weight:600;margin-bottom:4px}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--quiet);font-size:12px}
svg .mid{text-anchor:middle}svg .end{text-anchor:end}svg .label{fill:var(--text)}
.grid{stroke:var(--rule)}.axis{stroke:var(--quiet)}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}
.dot{fill:var(--c);stroke:var(--ground);stroke-width:1.5}
.area{fill:var(--c);opacity:.18}
rect{fill:var(--c)}
.one{--c:var(--one)}.two{--c:var(--two)}.bad{--c:var(--bad)}.waiting{--c:var(--waiting)}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;margin:4px 0;font-size:13px;color:var(--quiet)}
.key::before{content:"";display:inline-block;width:12px;height:12px;border-radius:3px;
background:var(--c);margin-right:6px;vertical-align:-1px}
@media print{main{max-width:none}figure{break-inside:avoid}}
"""

LIGHT = ((0x86, 0xB4, 0xEE), (0x0C, 0x2F, 0x66))
DARK = ((0x2F, 0x6F, 0xC4), (0xD3, 0xE5, 0xFC))
"""Of the smallest load and the largest: loads are in an order, so their colours are too."""


def level_colours(count: int) -> str:
    """Rules for classes l0, l1, ... of so many levels."""
    light = "".join(f".l{n}{{--c:{_between(LIGHT, n, count)}}}" for n in range(count))
    dark = "".join(f".l{n}{{--c:{_between(DARK, n, count)}}}" for n in range(count))
    return f"{light}@media(prefers-color-scheme:dark){{{dark}}}"


def _between(ends: tuple[tuple[int, ...], tuple[int, ...]], number: int, count: int) -> str:
    share = 0.5 if count == 1 else number / (count - 1)
    mixed = (round(a + share * (b - a)) for a, b in zip(*ends, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
