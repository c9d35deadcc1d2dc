"""What `report.html` says beside the curves, part by part, from a run's records."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdet.config import Config
from jaxdet.inference.html.charts import Series, bar_chart, line_chart, share_chart
from jaxdet.inference.html.page import escape, folded, pairs, percent, section, table, times_100
from jaxdet.inference.recall import LIMITS, SIZES
from jaxdet.zoo.published import ROWS

Row = dict[str, Any]

TRAINED, REPORTED = "trained", "wrote this page"  # what a machine's process did


def headline(result: Row | None) -> str:
    """The result in a few words."""
    if not result:
        return "not evaluated yet"
    return f"AR@1000 {percent(result['AR@1000'])}"


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
        f'<header><p class="over">jaxdet report, {escape(values["date"])}</p>'
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
            [times_100(result["recall_by_iou"][str(limit)][t]) for t in thresholds],
            note=percent(result[f"AR@{limit}"]),
        )
        for limit in reversed(LIMITS)
    ]
    bars = []
    for size in SIZES:
        value = result["recall_by_size"][size]
        count = result["boxes_by_size"][size]
        label = f"{size}, {count} box{'es' * (count != 1)}"
        bars.append((label, value, percent(value)))
    rows = [
        (f"AR, {name}", *(percent(figures[f"AR@{limit}"]) for limit in LIMITS))
        for name, figures in (("COCO API", result), ("fast", result["fast"]))
    ]
    for name, figures in (("recall", result), ("fast recall", result["fast"])):
        by_iou = [figures["recall_by_iou"][str(limit)] for limit in LIMITS]
        rows += [(f"{name} at IoU {t}", *(percent(r[t]) for r in by_iou)) for t in thresholds]
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


def images(uri: str, width: int, height: int) -> str:
    """The grid of drawn proposals; it scrolls across on a narrow screen."""
    text = (
        "Validation images with the boxes to find, solid where a proposal has an IoU of at least "
        "0.5 and dashed where none has, and the best proposal for each."
    )
    return section(
        "Sample images",
        '<figure><div class="wide" tabindex="0" role="region" aria-label="Sample images">'
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
    groups, defaults = _fields(config), _fields(Config())
    changed = [
        (f"{group}.{name}", value, defaults[group][name])
        for group, fields in groups.items()
        for name, value in fields.items()
        if value != defaults[group][name]
    ]
    about = "What differs from the defaults, which are those of R-50-FPN, 1x."
    every = [table([], list(fields.items()), group) for group, fields in groups.items()]
    return section(
        "Configuration",
        table(["Field", "Value", "Default"], changed, about)
        if changed
        else "<p>All fields have their defaults, which are those of R-50-FPN, 1x.</p>",
        folded("All fields", '<div class="charts groups">', *every, "</div>"),
    )


def machine(values: Row) -> str:
    """Hardware and versions."""
    devices = values["devices"]
    memory = values["memory_gb"]
    known = [
        ("Devices", f"{devices['count']} x {devices['kind']}"),
        ("Runtime", devices["runtime"]),
        ("Processor", f"{values['cpu']}, {values['cores']} cores"),
        ("Memory", "unknown" if memory is None else f"{memory:.4g} GB"),
        ("System", values["system"]),
        *values["versions"].items(),
    ]
    caption = f"Of the process that {values['process']}, {values['date']}."
    return section("Environment", table([], known, caption))


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
        remark = f"fast recall {percent(result['fast'][f'AR@{limit}'])}"
        published = [row.ar1000 for row in ROWS if row.config == config.name]
        if limit == LIMITS[-1] and published and config.data.name != "shapes":
            remark += f"; published {published[0]:.1f}"
        figures.append((f"AR@{limit}", percent(result[f"AR@{limit}"]), remark))
    return figures


def _facts(
    config: Config, steps: Sequence[Row], evaluations: Sequence[Row], values: Row
) -> list[tuple[str, str, str]]:
    devices = values["devices"]
    facts: list[tuple[str, str, str]] = [("Data", config.data.name, "")]
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
    scored = [row for row in evaluations if row["AR@1000"] is not None]
    if len(scored) > 1:
        best = max(scored, key=lambda row: row["AR@1000"])
        facts.append(("Best AR@1000", percent(best["AR@1000"]), f"at step {best['step']}"))
    return [
        *facts,
        *_peak_memory(steps, values),
        ("Devices", f"{devices['count']} x {devices['kind']}", ""),
    ]


def _mean(rows: Sequence[Row], name: str, weights: np.ndarray) -> float:
    """Over the steps of all rows that know it; NaN if none does."""
    known = np.array([row.get(name) is not None for row in rows])
    if not known.any():
        return math.nan
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.average(values, weights=weights[known]))


def _fields(config: Config) -> dict[str, dict[str, str]]:
    """Fields and their values by group."""
    return {
        group: {name: _shown(value) for name, value in fields.items()}
        for group, fields in dataclasses.asdict(config).items()
        if isinstance(fields, dict)
    }


def _shown(value: Any) -> str:
    """A field's value much as on the command line; an empty text as one sees it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return str(value) or "(none)"


def _peak_memory(steps: Sequence[Row], values: Row) -> list[tuple[str, str, str]]:
    """Training's, if there was one, else this process's: an evaluation's."""
    peaks = [row.get("memory_gb") for row in steps] if steps else [values["peak_memory_gb"]]
    known = [peak for peak in peaks if peak is not None]
    # Whose the logged memory was is known to the process that logged it.
    sure = values["process"] == TRAINED or not steps
    owner = {"device": "largest of a device", "process": "of the process"}[values["memory_of"]]
    return [("Peak memory", f"{max(known):.2f} GB", owner if sure else "")] if known else []


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
