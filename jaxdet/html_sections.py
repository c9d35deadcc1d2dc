"""What `report.html` says, part by part, from a run's records."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdet.charts import Series, bar_chart, line_chart, share_chart
from jaxdet.config import Config
from jaxdet.html_page import escape, folded, pairs, section, table
from jaxdet.metrics import LIMITS, SIZES
from jaxdet.published import ROWS

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


def headline(result: Row | None) -> str:
    """The result in a few words."""
    if not result:
        return "not evaluated yet"
    return f"AR@1000 {_percent(result['AR@1000'])}"


def head(
    config: Config,
    steps: Sequence[Row],
    evaluations: Sequence[Row],
    result: Row | None,
    values: Row,
) -> str:
    """Name, result and the facts about the run."""
    if result:
        at = f"after {result['step']} steps" if "step" in result else "by --mode=eval"
        boxes = f"{result['num_boxes']} boxes of {result['num_images']} validation images"
        about = f"Average recall of proposals, {at}, on {boxes}."
    else:
        about = "Not evaluated yet."
    return (
        f'<header><p class="over">jaxdet training report, {escape(values["date"])}</p>'
        f"<h1>{escape(config.name)}</h1><p>{escape(about)}</p>"
        + (pairs("key", _key_figures(config, result)) if result else "")
        + pairs("facts", _facts(config, steps, evaluations, values))
        + "</header>"
    )


def recall(result: Row) -> str:
    """By IoU and by size, drawn and as tables."""
    thresholds = list(result["recall_by_iou"][str(LIMITS[0])])
    lines = [
        Series(
            f"best {limit}: AR",
            [float(t) for t in thresholds],
            [_times_100(result["recall_by_iou"][str(limit)][t]) for t in thresholds],
            note=_percent(result[f"AR@{limit}"]),
        )
        for limit in reversed(LIMITS)
    ]
    bars = []
    for size in SIZES:
        value = result["recall_by_size"][size]
        count = result["boxes_by_size"][size]
        label = f"{size}, {count} box{'es' * (count != 1)}"
        bars.append((label, value, _percent(value)))
    rows = [
        (f"AR, {name}", *(_percent(figures[f"AR@{limit}"]) for limit in LIMITS))
        for name, figures in (("COCO API", result), ("fast", result["fast"]))
    ]
    for name, figures in (("recall", result), ("fast recall", result["fast"])):
        by_iou = [figures["recall_by_iou"][str(limit)] for limit in LIMITS]
        rows += [(f"{name} at IoU {t}", *(_percent(r[t]) for r in by_iou)) for t in thresholds]
    return section(
        "Recall",
        '<div class="charts two">',
        line_chart(
            "Recall by IoU threshold, percent",
            lines,
            x_name="IoU threshold",
            y_range=(0, 100),
            markers=True,
        ),
        bar_chart("AR@1000 by size of the box, percent", bars),
        "</div>",
        folded(
            "Recall as a table",
            table(
                ["Percent", *(f"best {limit}" for limit in LIMITS)],
                rows,
                "COCO API: mean over IoU 0.50:0.05:0.95. Fast: greedy matching without categories, "
                "crowds or sizes, as the reference has it.",
                numbers=True,
            ),
            '<p class="note">Small: area up to 32² pixels; medium: to 96²; large: above.</p>',
        ),
    )


def training(steps: Sequence[Row], evaluations: Sequence[Row]) -> str:
    """Curves of everything that was logged, and their values as tables."""
    if not steps and not evaluations:
        return section("Training", '<p class="note">Nothing was logged in this folder.</p>')
    last = max(row["step"] for row in [*steps, *evaluations])
    options: dict[str, Any] = {"x_name": "step", "x_range": (0, last)}
    names = _numeric_fields(steps)
    losses = [_series(steps, name) for name in LOSSES if name in names]
    main = [line_chart("Loss and its terms", losses, smooth=True, tall=True, **options)]
    if len(evaluations) > 1:
        main.append(_recall_chart(evaluations, options))
    charts = []
    for name in [n for n in TITLES if n in names] + [n for n in names if n not in TITLES]:
        if name not in NOT_ALONE:
            smooth, from_zero = name not in EXACT, name != "param_norm"
            lines = [_series(steps, name, percent=name == "wait_share")]
            title = TITLES.get(name, name)
            charts.append(
                line_chart(
                    title,
                    lines,
                    smooth=smooth,
                    from_zero=from_zero,
                    may_be_log=name != "wait_share",
                    **options,
                )
            )
    return section(
        "Training",
        f'<div class="charts main">{"".join(main)}</div>',
        f'<div class="charts">{"".join(charts)}</div>',
        '<p class="note">A value is the mean since the logged step before. Long curves are drawn '
        "faint, with their moving mean on top.</p>",
        folded("Training as a table", _rows_table(steps, names, "logged steps")) if steps else "",
        _evaluations_table(evaluations) if evaluations else "",
    )


def pictures(uri: str, width: int, height: int) -> str:
    """The grid of drawn proposals; it scrolls across on a narrow screen."""
    text = (
        "Validation pictures with the boxes to find, solid where a proposal has an IoU of at least "
        "0.5 and dashed where none has, and the best proposal for each."
    )
    return section(
        "Sample pictures",
        '<figure><div class="wide" tabindex="0" role="region" aria-label="Sample pictures">'
        f'<img src="{uri}" width="{width}" height="{height}" alt="{escape(text)}"></div></figure>',
    )


def speed(result: Row) -> str:
    """Where the time of the evaluation went."""
    named = (
        ("data", "loading, where not hidden"),
        ("forward", "network"),
        ("post", "post-processing"),
    )
    seconds = result["seconds_per_image"]
    parts = [(name, seconds[key], f"{1000 * seconds[key]:.2f} ms") for key, name in named]
    return section(
        "Speed",
        share_chart("Evaluation, time per image", parts),
        f"<p>{result['images_per_second']:.1f} images per second over all devices; compiling took "
        f"another {result['compile_seconds']:.1f} s.</p>",
    )


def configuration(config: Config) -> str:
    """Fields that differ from the defaults, and all fields folded away."""
    values, defaults = _flat(config), _flat(Config())
    changed = [
        (name, value, defaults[name])
        for name, value in values.items()
        if value != defaults[name] and name != "name"
    ]
    return section(
        "Configuration",
        table(["Field", "Value", "Default (R-50-FPN, 1x)"], changed, "Set differently")
        if changed
        else "<p>All fields have their defaults, which are those of R-50-FPN, 1x.</p>",
        folded(f"All {len(values)} fields", table(["Field", "Value"], list(values.items()))),
    )


def machine(values: Row, recorded: bool) -> str:
    """Hardware and versions."""
    devices = values["devices"]
    known = [
        ("Devices", f"{devices['count']} x {devices['kind']}"),
        ("Runtime", devices["runtime"]),
        ("Processor", f"{values['cpu']}, {values['cores']} cores"),
        ("Memory", _gigabytes(values["memory_gb"])),
        (f"Peak memory, {_owner(values)}", _gigabytes(values["peak_memory_gb"])),
        ("System", values["system"]),
        *values["versions"].items(),
    ]
    whose = "that trained" if recorded else "that wrote this page"
    return section("Environment", table([], known, f"The process {whose}, {values['date']}."))


def foot(values: Row) -> str:
    """Where the page comes from."""
    version = escape(values["versions"]["jaxdet"])
    return (
        f"<footer>Written by jaxdet {version} from metrics.jsonl, eval.json and proposals.png of "
        "the work directory.</footer>"
    )


def _key_figures(config: Config, result: Row) -> list[tuple[str, str, str]]:
    """The three average recalls, with the published one where there is one to compare with."""
    figures = []
    for limit in LIMITS:
        remark = f"fast recall {_percent(result['fast'][f'AR@{limit}'])}"
        published = [row.ar1000 for row in ROWS if row.config == config.name]
        if limit == LIMITS[-1] and published and config.data.name != "shapes":
            remark += f"; published {published[0]:.1f}"
        figures.append((f"AR@{limit}", _percent(result[f"AR@{limit}"]), remark))
    return figures


def _facts(
    config: Config, steps: Sequence[Row], evaluations: Sequence[Row], values: Row
) -> list[tuple[str, str, str]]:
    devices = values["devices"]
    facts = [("Data", config.data.name, "")]
    if steps:
        last = steps[-1]
        counts = np.diff([0, *(row["step"] for row in steps)])
        seconds = _mean(steps, "seconds_per_step", counts)
        waited = _mean(steps, "wait_share", counts)
        loss = "-" if last["loss"] is None else f"{last['loss']:.4f}"
        facts += [
            ("Steps", str(last["step"]), f"{last['epoch']} epochs"),
            ("Last loss", loss, f"at step {last['step']}"),
            ("Time in steps", _duration(seconds * last["step"]), f"{seconds:.3f} s each"),
            ("Waited for data", f"{100 * waited:.1f} %", "of that time"),
        ]
    peaks = [row["memory_gb"] for row in steps if row.get("memory_gb") is not None]
    scored = [row for row in evaluations if row["AR@1000"] is not None]
    if len(scored) > 1:
        best = max(scored, key=lambda row: row["AR@1000"])
        facts.append(("Best AR@1000", _percent(best["AR@1000"]), f"at step {best['step']}"))
    return [
        *facts,
        ("Peak memory", _gigabytes(max(peaks, default=values["peak_memory_gb"])), _owner(values)),
        ("Devices", f"{devices['count']} x {devices['kind']}", ""),
    ]


def _recall_chart(evaluations: Sequence[Row], options: dict[str, Any]) -> str:
    lines = [_series(evaluations, f"AR@{limit}", percent=True) for limit in reversed(LIMITS)]
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
            **{name: _times_100(row[name]) for name in named},
            **{f"fast {name}": _times_100(row["fast"][name]) for name in named},
            **{f"{size}": _times_100(row["recall_by_size"][size]) for size in SIZES},
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


def _series(rows: Sequence[Row], name: str, percent: bool = False) -> Series:
    steps, values = [row["step"] for row in rows], [row.get(name) for row in rows]
    if not percent:
        return Series(name, steps, values)
    known = [value for value in values if value is not None]
    note = f"{100 * known[-1]:.1f}" if known else ""
    return Series(name, steps, [_times_100(value) for value in values], note)


def _mean(rows: Sequence[Row], name: str, weights: np.ndarray) -> float:
    """Over the steps of all rows that know it; NaN if none does."""
    known = np.array([row.get(name) is not None for row in rows])
    if not known.any():
        return math.nan
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.average(values, weights=weights[known]))


def _flat(config: Config) -> dict[str, str]:
    """Fields by dotted name, as JSON."""
    flat = {}
    for node, value in dataclasses.asdict(config).items():
        fields = value if isinstance(value, dict) else {"": value}
        for name, item in fields.items():
            key = f"{node}.{name}" if name else node
            flat[key] = json.dumps(item, ensure_ascii=False)
    return flat


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _times_100(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _gigabytes(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} GB"


def _owner(values: Row) -> str:
    return "largest of a device" if values["memory_of"] == "device" else "of the process"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
