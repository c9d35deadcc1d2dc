"""The part of `report.html` about training: a curve of everything that was logged."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdet.inference.html.charts import Series, line_chart
from jaxdet.inference.html.page import folded, percent, section, table, times_100
from jaxdet.inference.recall import LIMITS, SIZES

Row = dict[str, Any]

MAX_TABLE_ROWS = 30
LOSSES = ("loss", "loss_cls", "loss_bbox")
# Drawn together, as another axis, or as the same curve upside down.
NOT_ALONE = (*LOSSES, "epoch", "images_per_second")
TITLES = {
    "learning_rate": "Learning rate",
    "seconds_per_step": "Seconds per step",
    "wait_share": "Waiting for the loader, percent",
    "grad_norm": "Gradient norm, before clipping",
    "param_norm": "Norm of the trained parameters",
    "num_positive": "Positive anchors sampled per image",
    "memory_gb": "Peak memory so far, GB",
}
EXACT = ("learning_rate", "param_norm", "memory_gb")  # not noisy, so drawn without a moving mean


def training(steps: Sequence[Row], evaluations: Sequence[Row]) -> str:
    """Curves of everything that was logged, and their values as tables.

    Args:
        steps: logged steps, by number.
        evaluations: by step; there is at least one row in all.
    """
    last = max(row["step"] for row in [*steps, *evaluations])
    options: dict[str, Any] = {"x_name": "step", "x_range": (0, last)}
    names = _numeric_fields(steps)
    main = []
    if losses := [_series(steps, name) for name in LOSSES if name in names]:
        main.append(line_chart("Loss and its terms", losses, smooth=True, tall=True, **options))
    if len(evaluations) > 1:
        main.append(_recall_chart(evaluations, options))
    order = [n for n in TITLES if n in names] + [n for n in names if n not in TITLES]
    charts = [_small_chart(steps, name, options) for name in order if name not in NOT_ALONE]
    return section(
        "Training",
        f'<div class="charts main">{"".join(main)}</div>',
        f'<div class="charts">{"".join(charts)}</div>',
        '<p class="note">A value is the mean since the logged step before. Long curves are drawn '
        "faint, with their moving mean on top.</p>",
        folded("Training as a table", _rows_table(steps, names, "logged steps")) if steps else "",
        _evaluations_table(evaluations) if evaluations else "",
    )


def _small_chart(steps: Sequence[Row], name: str, options: dict[str, Any]) -> str:
    share = name == "wait_share"
    return line_chart(
        TITLES.get(name, name),
        [_series(steps, name, share)],
        smooth=name not in EXACT,
        from_zero=name != "param_norm",
        may_be_log=not share,
        **options,
    )


def _recall_chart(evaluations: Sequence[Row], options: dict[str, Any]) -> str:
    lines = [_series(evaluations, f"AR@{limit}", share=True) for limit in reversed(LIMITS)]
    title = "Average recall, percent"
    return line_chart(title, lines, markers=True, from_zero=False, tall=True, **options)


def _rows_table(rows: Sequence[Row], names: Sequence[str], what: str) -> str:
    """Rows evenly spread over a run, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, MAX_TABLE_ROWS).round().astype(int))
    cells = [[rows[i]["step"], *(_cell(rows[i].get(name)) for name in names)] for i in chosen]
    return table(["step", *names], cells, f"{len(cells)} of {len(rows)} {what}", numbers=True)


def _evaluations_table(evaluations: Sequence[Row]) -> str:
    named = [f"AR@{limit}" for limit in LIMITS]
    rows = [
        {
            "step": row["step"],
            **{name: percent(row[name]) for name in named},
            **{f"fast {name}": percent(row["fast"][name]) for name in named},
            **{f"AR@1000 {size}": percent(row["recall_by_size"][size]) for size in SIZES},
        }
        for row in evaluations
    ]
    names = list(rows[0])[1:]
    return folded("Evaluations as a table", _rows_table(rows, names, "evaluations; percent"))


def _numeric_fields(rows: Sequence[Row]) -> list[str]:
    """Names of what has numbers (or a null for one that was not finite), as they first appear."""
    names = {
        name: None
        for row in rows
        for name, value in row.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }
    return [name for name in names if name != "step"]


def _series(rows: Sequence[Row], name: str, share: bool = False) -> Series:
    steps, values = [row["step"] for row in rows], [row.get(name) for row in rows]
    if not share:
        return Series(name, steps, values)
    known = [value for value in values if value is not None]
    note = percent(known[-1]) if known else ""
    return Series(name, steps, [times_100(value) for value in values], note)


def _cell(value: int | float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.5g}"
