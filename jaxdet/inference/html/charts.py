"""Charts as inline SVG: lines, bars and shares, for pages without scripts.

A chart is as wide as its place.  Positions across are therefore percentages and the lines stretch,
while text, markers and stroke widths keep their size, so that a chart is as readable on a phone as
on a desk.  Colours come from the page's style sheet: series i has the class `s<i>`.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxdet.inference.html.axes import (
    TINY,
    Axis,
    Number,
    linear_axis,
    log_axis,
    moving_mean,
    short,
    thin,
)

SMOOTHED_FROM = 60  # points; shorter lines are drawn as they are
LOG_FROM = 20.0  # ratio of the largest to the smallest value
PLOT_WIDTH, PLOT_HEIGHT = 2000, 1000  # the units in which lines are drawn


@dataclass(frozen=True)
class Series:
    """A line of a chart; None and NaN leave a gap."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number | None]
    note: str = ""  # beside the name; the last value if empty

    def values(self) -> np.ndarray:
        """The heights as float64 [n], NaN for gaps."""
        y = np.array([math.nan if v is None else v for v in self.y], np.float64)
        return np.where(np.isfinite(y), y, np.nan)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str,
    x_range: tuple[Number, Number] | None = None,
    y_range: tuple[Number, Number] | None = None,
    from_zero: bool = True,
    may_be_log: bool = True,
    smooth: bool = False,
    markers: bool = False,
    tall: bool = False,
) -> str:
    """A figure with a title, a legend (with each line's last value) and the lines.

    Args:
        title: what is drawn, and its unit.
        series: lines; one without any number is left out of the drawing.
        x_name: what goes across.
        x_range: ends of the axis; None takes those of the data.
        y_range: the same upwards; None rounds those of the data.
        from_zero: a linear axis begins at 0.
        may_be_log: the axis is logarithmic where the data's ends are far apart.
        smooth: long lines are drawn faint, with their moving mean on top.
        markers: every value has a dot, which says its value when pointed at.
        tall: for a chart that has a page's width to itself.
    """
    drawn = [s for s in series if np.isfinite(s.values()).any()]
    height = 280 if tall else 180
    alone = len(series) == 1
    legend = "".join(_legend_entry(i, s, alone) for i, s in enumerate(series) if s in drawn)
    if not drawn:
        return _figure(title, "", '<p class="note">No values.</p>')
    across = np.concatenate([np.asarray(s.x, float) for s in drawn])
    first, last = x_range or (float(across.min()), float(across.max()))
    x_axis = linear_axis(first, last, rounded=False)
    y_axis = _upward_axis(
        np.concatenate([s.values() for s in drawn]), y_range, from_zero, may_be_log
    )
    lines, dots = [], []
    for i, s in enumerate(series):
        if s in drawn:
            lines += _lines(i, s, x_axis, y_axis, smooth)
            dots += _dots(i, s, x_axis, y_axis, height, x_name) if markers else []
    parts = [_grid(x_axis, y_axis, height, x_name), _stretched(lines, height), *dots]
    described = "; ".join(_described(s, x_name) for s in drawn)
    if y_axis.log:
        legend += "<li>logarithmic</li>"
    return _figure(title, legend, _svg(title, described, height, "".join(parts)), "axes")


def bar_chart(title: str, bars: Sequence[tuple[str, Number | None, str]]) -> str:
    """A figure of bars that go across, each under its label and its value.

    Args:
        title: what is drawn.
        bars: label, share of the full width from 0 to 1 (None for no bar), and value as text.
    """
    row, parts = 46, []
    for i, (label, share, text) in enumerate(bars):
        y = i * row
        parts.append(
            f'<text x="0" y="{y + 16}">{html.escape(label)}</text>'
            f'<text x="100%" y="{y + 16}" class="value">{html.escape(text)}</text>'
            f'<rect class="track" x="0" y="{y + 24}" width="100%" height="10" rx="5"/>'
        )
        if share:
            width = 100 * min(share, 1.0)
            parts.append(
                f'<rect class="s0" x="0" y="{y + 24}" width="{width:.2f}%" height="10" rx="5"/>'
            )
    described = "; ".join(f"{label}: {text}" for label, _, text in bars)
    return _figure(title, "", _svg(title, described, row * len(bars), "".join(parts)))


def share_chart(title: str, parts: Sequence[tuple[str, Number, str]]) -> str:
    """A figure of one bar, divided.

    Args:
        title: what is divided.
        parts: name, amount (0 or more) and amount as text.
    """
    total = sum(amount for _, amount, _ in parts) or 1.0
    drawn, begin = [], 0.0
    for i, (_, amount, _) in enumerate(parts):
        width = 100 * amount / total
        drawn.append(f'<rect class="s{i}" x="{begin:.2f}%" width="{width:.2f}%" height="26"/>')
        begin += width
    legend = "".join(
        f"<li>{_swatch(i, filled=True)}{html.escape(name)} <b>{html.escape(text)}</b> "
        f"{100 * amount / total:.0f}%</li>"
        for i, (name, amount, text) in enumerate(parts)
    )
    described = "; ".join(f"{name}: {text}" for name, _, text in parts)
    return _figure(title, legend, _svg(title, described, 26, "".join(drawn)))


def _upward_axis(
    y: np.ndarray, y_range: tuple[Number, Number] | None, from_zero: bool, may_be_log: bool
) -> Axis:
    if y_range is not None:
        return linear_axis(*y_range, rounded=False)
    low, high = float(np.nanmin(y)), float(np.nanmax(y))
    if may_be_log and low > TINY and high / low >= LOG_FROM:
        return log_axis(low, high)
    return linear_axis(min(low, 0.0) if from_zero else low, high)


def _lines(number: int, s: Series, x_axis: Axis, y_axis: Axis, smooth: bool) -> list[str]:
    x, y = np.asarray(s.x, float), s.values()
    if not smooth or len(y) < SMOOTHED_FROM:
        return [f'<path class="s{number}" d="{_path(x, y, x_axis, y_axis)}"/>']
    return [
        f'<path class="s{number} faint" d="{_path(x, y, x_axis, y_axis)}"/>',
        f'<path class="s{number}" d="{_path(x, moving_mean(y), x_axis, y_axis)}"/>',
    ]


def _stretched(lines: list[str], height: int) -> str:
    """Lines in units of the plot, over its whole width."""
    return (
        f'<svg viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" preserveAspectRatio="none" '
        f'width="100%" height="{height}" class="lines">{"".join(lines)}</svg>'
    )


def _path(x: np.ndarray, y: np.ndarray, x_axis: Axis, y_axis: Axis) -> str:
    """A path's commands; a point between gaps is a line of no length, which is drawn as a dot."""
    kept = thin(y)
    across = np.rint(x_axis.place(x[kept]) * PLOT_WIDTH)
    down = (1 - y_axis.place(y[kept])) * PLOT_HEIGHT
    commands, pen = [], False
    for i, (column, row) in enumerate(zip(across, down, strict=True)):
        if not math.isfinite(row):
            pen = False
            continue
        commands.append(f"{'L' if pen else 'M'}{column:.0f} {row:.0f}")
        if not pen and (i + 1 == len(down) or not math.isfinite(down[i + 1])):
            commands.append("h0")
        pen = True
    return "".join(commands)


def _dots(
    number: int, s: Series, x_axis: Axis, y_axis: Axis, height: int, x_name: str
) -> list[str]:
    x, y = np.asarray(s.x, float), s.values()
    shown = thin(y)
    shown = shown[np.isfinite(y[shown])]
    places = zip(100 * x_axis.place(x[shown]), height * (1 - y_axis.place(y[shown])), strict=True)
    return [
        f'<circle class="s{number}" cx="{across:.2f}%" cy="{down:.1f}" r="3.5"><title>'
        f"{html.escape(f'{s.name} {y[i]:.4g}, {x_name} {x[i]:.10g}')}</title></circle>"
        for i, (across, down) in zip(shown, places, strict=True)
    ]


def _grid(x_axis: Axis, y_axis: Axis, height: int, x_name: str) -> str:
    parts = []
    tiny = 0 < min(abs(t) for t in y_axis.ticks if t) < 1e-3
    for value, place in zip(y_axis.ticks, y_axis.place(np.array(y_axis.ticks)), strict=True):
        y = height * (1 - place)
        parts.append(
            f'<line x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="up" x="-8" y="{y + 4:.1f}">{short(value, tiny)}</text>'
        )
    for value, place in zip(x_axis.ticks, x_axis.place(np.array(x_axis.ticks)), strict=True):
        x = f"{100 * place:.2f}%"
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{height}" y2="{height + 4}"/>'
            f'<text class="across" x="{x}" y="{height + 18}">{short(value)}</text>'
        )
    name = f'<text class="across" x="50%" y="{height + 36}">{html.escape(x_name)}</text>'
    return f'<g class="grid">{"".join(parts)}{name}</g>'


def _legend_entry(number: int, s: Series, alone: bool) -> str:
    y = s.values()
    note = s.note or f"{y[np.isfinite(y)][-1]:.4g}"
    swatch = "" if alone else _swatch(number)
    return f"<li>{swatch}{html.escape(s.name)} <b>{html.escape(note)}</b></li>"


def _swatch(number: int, filled: bool = False) -> str:
    if filled:
        shape = f'<rect class="s{number}" width="12" height="12" y="-1" rx="2"/>'
        return f'<svg width="12" height="10" aria-hidden="true">{shape}</svg>'
    shape = f'<path class="s{number}" d="M1 5H23"/>'
    return f'<svg width="24" height="10" class="lines" aria-hidden="true">{shape}</svg>'


def _described(s: Series, x_name: str) -> str:
    y = s.values()
    known = np.flatnonzero(np.isfinite(y))
    first, last = (f"{y[i]:.4g} at {x_name} {s.x[i]:.10g}" for i in known[[0, -1]])
    return f"{s.name}: {first}, {last}, least {np.nanmin(y):.4g}, most {np.nanmax(y):.4g}"


def _svg(title: str, described: str, height: int, content: str) -> str:
    return (
        f'<svg role="img" width="100%" height="{height}"><title>{html.escape(title)}</title>'
        f"<desc>{html.escape(described)}</desc>{content}</svg>"
    )


def _figure(title: str, legend: str, content: str, kind: str = "plain") -> str:
    items = f'<ul class="legend">{legend}</ul>' if legend else ""
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}{items}</figcaption>'
        f'<div class="{kind}">{content}</div></figure>'
    )
