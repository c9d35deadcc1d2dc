"""Plots of a run's records, as SVG images in the form of data URIs."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxdet.inference.average_precision import KINDS
from jaxdet.inference.recall import LIMITS

Row = dict[str, Any]
Numbers = Sequence[float | int | None]

# Letters stay text, ids do not change from run to run, and what a file says is no formula.
_style = mpl.rc_context(
    {"svg.fonttype": "none", "svg.hashsalt": "jaxdet", "text.parse_math": False, "font.size": 9}
)


@_style
def curves(steps: Sequence[Row], evaluations: Sequence[Row], names: Iterable[str]) -> str:
    """Draws what was logged: losses together, recalls or APs together, each other number alone.

    `steps` and `evaluations` are in their order; `names` are those of the numbers in `steps`.
    """
    losses = [name for name in names if name.startswith("loss")]
    panels = list[tuple[str, Sequence[Row], list[str]]]()
    if losses:
        panels.append(("loss and its terms", steps, losses))
    if len(evaluations) > 1 and "bbox" in evaluations[-1]:
        kinds = {kind: name for kind, name in KINDS.items() if kind in evaluations[-1]}
        figures = [{name: row[kind]["AP"] for kind, name in kinds.items()} for row in evaluations]
        scored = [{"step": r["step"], **f} for r, f in zip(evaluations, figures, strict=True)]
        panels.append(("average precision", scored, [*kinds.values()]))
    elif len(evaluations) > 1:
        panels.append(("average recall", evaluations, [f"AR@{limit}" for limit in LIMITS]))
    apart = (*losses, "epoch", "images_per_second")
    panels += [(name, steps, [name]) for name in names if name not in apart]
    figure, axes = _grid(len(panels))
    for ax, (title, rows, shown) in zip(axes, panels, strict=True):
        lines = {name: [row.get(name) for row in rows] for name in shown}
        _draw_lines(ax, title, "step", [row["step"] for row in rows], lines)
    return _svg(figure)


@_style
def recall(result: Row) -> str:
    """Draws recall by IoU threshold for each limit."""
    figure, (ax,) = _grid(1)
    by_limit = {f"best {n}": result["recall_by_iou"][str(n)] for n in LIMITS}
    thresholds = [float(t) for t in by_limit[f"best {LIMITS[0]}"]]
    lines = {name: list(by_iou.values()) for name, by_iou in by_limit.items()}
    _draw_lines(ax, "recall by IoU threshold", "IoU threshold", thresholds, lines)
    ax.set_ylim(0, 1)
    return _svg(figure)


def _grid(count: int) -> tuple[Figure, Sequence[Axes]]:
    rows = -(-count // 2)
    height = 2.8 * rows
    figure = Figure(figsize=(10, height))
    # Inches for titles and labels; measuring them instead would take most of the time.
    figure.subplots_adjust(0.07, 0.5 / height, 0.98, 1 - 0.4 / height, wspace=0.25, hspace=0.55)
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for ax in axes[count:]:
        ax.remove()
    return figure, list(axes[:count])


def _draw_lines(
    ax: Axes, title: str, x_name: str, places: Numbers, lines: Mapping[str, Numbers]
) -> None:
    for name, values in lines.items():
        # matplotlib leaves a gap at NaN, and thins out long lines without losing their peaks.
        marker = "o" if len(places) < 30 else ""
        heights = np.array(values, np.float64)
        ax.plot(np.array(places), heights, marker=marker, markersize=3, linewidth=1.2, label=name)
    ax.set(title=title, xlabel=x_name)
    ax.grid(alpha=0.3)
    if len(lines) > 1:
        ax.legend()


def _svg(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})  # not when it was drawn
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
