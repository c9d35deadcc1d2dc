"""Pieces of a page that stands alone: its style sheet, tables and sections.

Nothing is loaded and nothing runs; the page's own security policy forbids both.
"""

import html
from collections.abc import Sequence
from typing import Any

STYLE = """
:root {
  color-scheme: light dark;
  --back: #fff; --panel: #f6f7f9; --text: #1b1f24; --soft: #5b6470; --line: #dfe3e8;
  --c0: #1f6fb5; --c1: #c4511d; --c2: #17805f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14171b; --panel: #1d2126; --text: #e8eaed; --soft: #a3acb8; --line: #353b43;
    --c0: #6db4f2; --c1: #f2955f; --c2: #55c9a1;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 70rem;
  background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
h1 { margin: 0; font-size: clamp(1.5rem, 5vw, 2.25rem); line-height: 1.2;
  overflow-wrap: anywhere; letter-spacing: -.01em; }
h2 { margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line);
  font-size: 1.25rem; }
h3 { margin: 0 0 .25rem; font-size: .9375rem; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.over, .note, .note td { color: var(--soft); font-size: .875rem; }
.over { margin: 0 0 .25rem; }
.key { display: grid; grid-template-columns: repeat(3, 1fr); gap: .75rem; margin: 1.5rem 0 0; }
.key div { padding: .875rem 1rem; background: var(--panel); border-radius: 8px; }
.key dt, .facts dt { color: var(--soft); font-size: .875rem; }
.key dd { margin: 0; font-size: clamp(1.5rem, 6vw, 2.5rem); font-weight: 650; line-height: 1.15; }
dd small { display: block; color: var(--soft); font-size: .8125rem; font-weight: 400;
  line-height: 1.35; margin-top: .25rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr));
  gap: 1rem .75rem; margin: 1.5rem 0 0; padding: 0 1rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: grid; gap: 1.75rem 2.25rem; align-items: end;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
@media (min-width: 50rem) {
  .two { grid-template-columns: 3fr 2fr; }
  .main { grid-template-columns: 1fr; }
  .main:has(> :nth-child(2)) { grid-template-columns: 3fr 2fr; }
}
.two, .groups { align-items: start; }
.charts + .charts, .charts + details { margin-top: 1.75rem; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figcaption { font-size: .9375rem; font-weight: 600; margin-bottom: .75rem; }
.legend { display: flex; flex-wrap: wrap; gap: .125rem 1rem; margin: .125rem 0 0; padding: 0;
  list-style: none; font-size: .8125rem; font-weight: 400; color: var(--soft); min-height: 1.5em; }
.legend b { color: var(--text); font-weight: 600; }
.legend svg { margin-right: .375rem; vertical-align: -1px; overflow: visible; }
.axes { padding: 4px 12px 42px 44px; }
.axes svg, .plain svg { display: block; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); }
.plain text { font-size: 14px; fill: var(--text); }
text.up, text.value { text-anchor: end; }
text.value { font-weight: 600; }
text.across { text-anchor: middle; }
.grid line { stroke: var(--line); stroke-width: 1; }
.track { fill: var(--line); }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); }
rect[class^=s], circle { fill: var(--c); }
circle { stroke: var(--back); stroke-width: 1; }
.lines path { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round;
  stroke-linecap: round; vector-effect: non-scaling-stroke; }
.lines .s1 { stroke-dasharray: 7 4; } .lines .s2 { stroke-dasharray: 1 4; }
.lines .faint { stroke-width: 1; opacity: .4; stroke-dasharray: none; }
.wide { overflow-x: auto; }
.wide:focus-visible, summary:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px; }
.wide img { display: block; width: 100%; min-width: 46rem; height: auto; border-radius: 6px; }
table { border-collapse: collapse; font-size: .875rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .375rem; }
th, td { padding: .25rem .875rem .25rem 0; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--soft); overflow-wrap: normal; }
thead th { vertical-align: bottom; }
.numbers thead th + th { text-align: right; }
.numbers td { text-align: right; white-space: nowrap; }
td, dd, text, .legend { font-variant-numeric: tabular-nums; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--c0); font-size: .9375rem; }
details > * + * { margin-top: .75rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .8125rem; }
@media (max-width: 34rem) {
  body { padding: 1.5rem 1rem 3rem; }
  .key { gap: .5rem; } .key div { padding: .625rem .625rem; }
  .facts { padding: 0; }
}
@media print {
  :root { color-scheme: light; --back: #fff; --panel: #f6f7f9; --text: #000; --soft: #444;
    --line: #ccc; --c0: #1f6fb5; --c1: #c4511d; --c2: #17805f; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  html { font-size: 12px; }
  body { padding: 0; font-size: 1rem; }
  h2, h3, summary { break-after: avoid; }
  tr, .key, .wide { break-inside: avoid; }
  figure + p { break-before: avoid; }
  thead { break-after: avoid; }
  table { font-size: 8pt; }
  th, td { padding-right: 6pt; }
  .wide { overflow: visible; }
  .wide img { min-width: 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""


def escape(value: Any) -> str:
    """Any text as it may stand in an element or in a quoted attribute."""
    return html.escape(str(value))


def percent(share: int | float | None) -> str:
    """A share with one decimal; a dash for none."""
    return "-" if share is None else f"{100 * share:.1f}"


def times_100(share: int | float | None) -> int | float | None:
    """A share in percent."""
    return None if share is None else 100 * share


def table(
    head: Sequence[Any], rows: Sequence[Sequence[Any]], caption: str = "", numbers: bool = False
) -> str:
    """A table whose first column names the rows; it scrolls by itself where it is too wide.

    Args:
        head: titles of the columns; none for a table without.
        rows: cells, as text or numbers.
        caption: stands above.
        numbers: all columns but the first are set to the right.
    """
    # Field names may break at their underscores.
    titles = [escape(cell).replace("_", "_<wbr>") for cell in head]
    top = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="{"numbers" if numbers else "words"}">'
        + (f"<caption>{escape(caption)}</caption>" if caption else "")
        + (f"<thead><tr>{top}</tr></thead>" if head else "")
        + f"<tbody>{body}</tbody></table></div>"
    )


def pairs(kind: str, items: Sequence[tuple[str, str, str]]) -> str:
    """Names with values, and a remark (or none) below each.

    Args:
        kind: `key` for a few large ones, `facts` for many small ones.
        items: name, value, remark.
    """
    return (
        f'<dl class="{kind}">'
        + "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}"
            + (f"<small>{escape(remark)}</small>" if remark else "")
            + "</dd></div>"
            for name, value, remark in items
        )
        + "</dl>"
    )


def section(title: str, *content: str) -> str:
    """A part of the page under a heading."""
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def folded(title: str, *content: str) -> str:
    """What is shown when its title is pressed, and always on paper."""
    return f"<details><summary>{escape(title)}</summary>{''.join(content)}</details>"


def page(title: str, *content: str) -> str:
    """The whole document."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(content)
        + "\n</body>\n</html>\n"
    )
