"""Plots of a run's records, as SVG images that a page can hold.

matplotlib is imported where it draws: commands that make no report start without it.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxdet.inference.recall import LIMITS, SIZES

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Row = dict[str, Any]
Numbers = Sequence[float | int | None]

TITLES = {
    "learning_rate": "Learning rate",
    "seconds_per_step": "Seconds per step",
    "wait_share": "Share of time waiting for the loader",
    "grad_norm": "Gradient norm, before clipping",
    "param_norm": "Norm of the trained parameters",
    "num_positive": "Positive anchors sampled per image",
    "memory_gb": "Peak memory so far, GB",
}


class Plot(NamedTuple):
    """An image for a page, and what it shows in words."""

    uri: str
    text: str
    width: int = 0  # pixels; 0 leaves the size to the image
    height: int = 0


def curves(steps: Sequence[Row], evaluations: Sequence[Row]) -> Plot:
    """Draws everything that was logged: losses together, recalls together, each other number alone.

    Args:
        steps: logged steps, in their order.
        evaluations: by step; there is at least one row in all.
    """
    names = numeric_fields(steps)
    losses = [name for name in names if name.startswith("loss")]
    alone = [n for n in names if n not in (*losses, "epoch", "images_per_second")]
    panels: list[tuple[str, Sequence[Row], list[str]]] = []
    if losses:
        panels.append(("Loss and its terms", steps, losses))
    if len(evaluations) > 1:
        recalls = [f"AR@{limit}" for limit in reversed(LIMITS)]
        panels.append(("Average recall", evaluations, recalls))
    panels += [(TITLES.get(name, name), steps, [name]) for name in alone]
    figure, axes = _grid(len(panels))
    texts = []
    for ax, (title, rows, shown) in zip(axes, panels, strict=True):
        places = [row["step"] for row in rows]
        lines = {name: [row.get(name) for row in rows] for name in shown}
        texts.append(f"{title}: {_draw_lines(ax, places, lines, 'step')}")
        _title(ax, title)
    return _image(figure, texts)


def recall(result: Row) -> Plot:
    """Draws recall by IoU threshold for each limit, and AR@1000 by the size of the box."""
    figure, (by_iou, by_size) = _grid(2)
    thresholds = [float(t) for t in result["recall_by_iou"][str(LIMITS[0])]]
    lines = {
        f"best {limit}": list(result["recall_by_iou"][str(limit)].values())
        for limit in reversed(LIMITS)
    }
    text = _draw_lines(by_iou, thresholds, lines, "IoU threshold")
    by_iou.set_ylim(0, 1)
    _title(by_iou, "Recall by IoU threshold")
    values = [result["recall_by_size"][size] for size in SIZES]
    labels = [f"{size}, {result['boxes_by_size'][size]} boxes" for size in SIZES]
    bars = by_size.barh(
        [label.replace(", ", "\n") for label in labels], [value or 0 for value in values]
    )
    shown = ["-" if value is None else f"{value:.3f}" for value in values]
    by_size.bar_label(bars, shown, padding=4)
    by_size.set_xlim(0, 1)
    by_size.invert_yaxis()
    _title(by_size, "AR@1000 by size of the box")
    sizes = "; ".join(f"{label}: {value}" for label, value in zip(labels, shown, strict=True))
    texts = [f"Recall by IoU threshold: {text}", f"AR@1000 by size of the box: {sizes}"]
    return _image(figure, texts)


def numeric_fields(rows: Sequence[Row]) -> list[str]:
    """Returns the names of what has numbers (null: one that was not finite), as they appear."""
    names = {
        name: None
        for row in rows
        for name, value in row.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }
    return [name for name in names if name != "step"]


def _grid(count: int) -> tuple["matplotlib.figure.Figure", list["matplotlib.axes.Axes"]]:
    from matplotlib.figure import Figure

    columns = min(count, 2)
    rows = -(-count // 2)
    height = 2.8 * rows
    figure = Figure(figsize=(10, height))
    # Inches for titles and labels; measuring them instead would take most of the time.
    space = {"left": 0.07, "right": 0.98, "top": 1 - 0.4 / height, "bottom": 0.5 / height}
    axes = figure.subplots(
        rows, columns, squeeze=False, gridspec_kw={**space, "hspace": 0.55, "wspace": 0.25}
    )
    axes = axes.ravel()
    for ax in axes[count:]:
        ax.remove()
    return figure, list(axes[:count])


def _draw_lines(
    ax: "matplotlib.axes.Axes", places: Numbers, lines: Mapping[str, Numbers], x_name: str
) -> str:
    """Draws lines, gaps where values are missing; returns their ends in words."""
    texts = []
    for name, values in lines.items():
        known = [(x, y) for x, y in zip(places, values, strict=True) if y is not None]
        if not known:
            texts.append(f"{name}: no values")
            continue
        # matplotlib leaves a gap at NaN, and thins out long lines without losing their peaks.
        drawn = np.array(values, np.float64)
        marker = "o" if len(known) < 30 else ""
        ax.plot(np.array(places), drawn, marker=marker, markersize=3, linewidth=1.2, label=name)
        ends = ", ".join(f"{y:.4g} at {x_name} {x:g}" for x, y in (known[0], known[-1]))
        texts.append(f"{name}: {ends}")
    ax.set_xlabel(x_name)
    ax.grid(alpha=0.3)
    if len(ax.lines) > 1:
        # What a file says is no formula.
        for entry in ax.legend(fontsize="small", frameon=False).get_texts():
            entry.set_parse_math(False)
    return "; ".join(texts)


def _title(ax: "matplotlib.axes.Axes", text: str) -> None:
    ax.set_title(text, fontsize="medium", loc="left", parse_math=False)


def _image(figure: "matplotlib.figure.Figure", texts: Sequence[str]) -> Plot:
    import matplotlib as mpl

    file = io.BytesIO()
    # Letters stay text, ids do not change from run to run, and nothing says when it was drawn.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxdet"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    uri = f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Plot(uri, ". ".join(texts))
