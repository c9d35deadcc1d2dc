"""`report.html`: a run on one page that needs no other file, no network and no scripts.

It is made from what the work directory holds (`metrics.jsonl`, `eval.json`, `proposals.png`,
`environment.json`), so it can be made again at any time.  `report.html.jinja` says how it looks.
"""

import base64
import contextlib
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from jaxdet.config import Config
from jaxdet.distributed import is_first_host
from jaxdet.environment import environment, peak_memory
from jaxdet.errors import InputError
from jaxdet.files import write_json, write_whole
from jaxdet.inference import plots
from jaxdet.inference.plots import Plot, Row
from jaxdet.inference.recall import LIMITS, SIZES
from jaxdet.training.metric_writer import read_rows
from jaxdet.zoo.published import ROWS

FILE = "report.html"
MAX_IMAGE_BYTES = 1_500_000  # of the embedded image, before base64 adds a third
MAX_IMAGE_WIDTH = 1800  # pixels
MAX_TABLE_ROWS = 30
TRAINED, REPORTED = "trained", "wrote this page"  # what a machine's process did


def write_report(workdir: Path, config: Config, trained: bool = False) -> None:
    """Writes `report.html` into a work directory, on the first host only, whole or not at all.

    Args:
        workdir: of a run at any stage; what it does not hold yet is left out of the page.
        config: the run's.
        trained: this process did the training, so its machine and its peak memory are the run's;
            they are kept in `environment.json`, for when the page is made again elsewhere.

    Raises:
        InputError: a file cannot be read or written.
    """
    if not is_first_host():
        return
    if trained:
        write_json(workdir / "environment.json", this_machine(TRAINED))
    try:
        text = render(workdir, config)
    except OSError as error:
        raise InputError(f"{workdir / FILE}: cannot be made: {error}") from error
    # A path in a config may hold bytes that are no text.
    write_whole(workdir / FILE, text.encode("utf-8", "replace"))


def this_machine(process: str) -> dict[str, Any]:
    """Returns `environment()`, what this process did, and its peak memory so far.

    That is `peak_memory_gb` of what `memory_of` says: `device` or `process`.
    """
    peak, owner = peak_memory()
    return {**environment(), "process": process, "peak_memory_gb": peak, "memory_of": owner}


def render(workdir: Path, config: Config) -> str:
    """Returns the page's text; see `write_report`."""
    rows = read_rows(workdir / "metrics.jsonl")
    steps, evaluations = (_by_step(rows, kind) for kind in ("train", "eval"))
    result = _read_json(workdir / "eval.json")
    machine = _read_json(workdir / "environment.json") or this_machine(REPORTED)
    with _as_written_by_a_run(workdir / "eval.json"):
        evaluation = _evaluation(config, result)
    with _as_written_by_a_run(workdir, "metrics.jsonl or environment.json is "):
        parts = {
            **evaluation,
            **_configuration(config),
            "facts": _facts(config, steps, evaluations, machine),
            "curves": plots.curves(steps, evaluations) if rows else None,
            "logs": _logs(steps, evaluations),
            "samples": _samples(workdir / "proposals.png"),
            "known": _machine(machine),
        }
        templates = jinja2.Environment(
            loader=jinja2.PackageLoader("jaxdet", "inference"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        page = templates.get_template("report.html.jinja")
        return page.render(config=config, result=result, machine=machine, **parts)


@contextlib.contextmanager
def _as_written_by_a_run(path: Path, what: str = "") -> Iterator[None]:
    """Turns what a record of another form raises into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, jinja2.TemplateError) as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(
            f"{path}: {what}not what a run writes ({cause}); delete it or evaluate again"
        ) from error


def percent(share: float | int | None) -> str:
    """Returns a share with one decimal; a dash for none."""
    return "-" if share is None else f"{100 * share:.1f}"


def _by_step(rows: Iterable[Row], kind: str) -> list[Row]:
    """Returns rows of a kind in the order of their steps, the last written one of each."""
    found = {row["step"]: row for row in rows if row["kind"] == kind}
    return [found[step] for step in sorted(found)]


def _read_json(path: Path) -> Row | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); delete it or evaluate again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not what a run writes; delete it or evaluate again")
    return found


def _evaluation(config: Config, result: Row | None) -> dict[str, Any]:
    """Returns what the page says of `eval.json`."""
    if not result:
        return {"headline": "not evaluated yet", "about": "Not evaluated yet."}
    at = f"after {result['step']} steps" if "step" in result else "by --mode=eval"
    boxes = f"{result['num_boxes']} boxes of {result['num_images']} validation images"
    key_figures = []
    for limit in LIMITS:
        remark = f"fast recall {percent(result['fast'][f'AR@{limit}'])}"
        published = [row.ar1000 for row in ROWS if row.config == config.name]
        if limit == LIMITS[-1] and published and config.data.name != "shapes":
            remark += f"; published {published[0]:.1f}"
        key_figures.append((f"AR@{limit}", percent(result[f"AR@{limit}"]), remark))
    both = (("COCO API", "recall", result), ("fast", "fast recall", result["fast"]))
    rows = [
        (f"AR, {name}", *(percent(figures[f"AR@{limit}"]) for limit in LIMITS))
        for name, _, figures in both
    ]
    for _, name, figures in both:
        by_iou = [figures["recall_by_iou"][str(limit)] for limit in LIMITS]
        rows += [(f"{name} at IoU {t}", *(percent(r[t]) for r in by_iou)) for t in by_iou[0]]
    seconds = result["seconds_per_image"]
    parts = (("data", "loading, where not hidden"), ("forward", "network"), ("post", "on the host"))
    return {
        "headline": f"AR@1000 {percent(result['AR@1000'])}",
        "about": f"Average recall of proposals, {at}, on {boxes}.",
        "key_figures": key_figures,
        "recall_figure": plots.recall(result),
        "recall_head": ["Percent", *(f"best {limit}" for limit in LIMITS)],
        "recall_rows": rows,
        "throughput": f"{result['images_per_second']:.1f} images per second over all devices; "
        f"compiling took another {result['compile_seconds']:.1f} s.",
        "speed": [(name, f"{1000 * seconds[key]:.2f} ms") for key, name in parts],
    }


def _facts(
    config: Config, steps: Sequence[Row], evaluations: Sequence[Row], machine: Row
) -> list[tuple[str, str, str]]:
    devices = machine["devices"]
    facts: list[tuple[str, str, str]] = [("Data", config.data.name, "")]
    if steps:
        last = steps[-1]
        counts = np.diff([0, *(row["step"] for row in steps)])
        seconds, waited = (_mean(steps, k, counts) for k in ("seconds_per_step", "wait_share"))
        loss = "-" if last["loss"] is None else f"{last['loss']:.4f}"
        facts += [
            ("Steps", str(last["step"]), f"{last['epoch']} epochs"),
            ("Last loss", loss, f"at step {last['step']}"),
        ]
        if seconds is not None and waited is not None:
            minutes, second = divmod(round(seconds * last["step"]), 60)
            duration = f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
            facts.append(("Time in steps", duration, f"{seconds:.3f} s each"))
            facts.append(("Waited for data", f"{100 * waited:.1f} %", "of that time"))
    scored = [row for row in evaluations if row["AR@1000"] is not None]
    if len(scored) > 1:
        best = max(scored, key=lambda row: row["AR@1000"])
        facts.append(("Best AR@1000", percent(best["AR@1000"]), f"at step {best['step']}"))
    peaks = [row.get("memory_gb") for row in steps] if steps else [machine["peak_memory_gb"]]
    if known := [peak for peak in peaks if peak is not None]:
        # Whose the logged memory was is known to the process that logged it.
        sure = machine["process"] == TRAINED or not steps
        owner = {"device": "largest of a device", "process": "of the process"}
        remark = owner[machine["memory_of"]] if sure else ""
        facts.append(("Peak memory", f"{max(known):.2f} GB", remark))
    return [*facts, ("Devices", f"{devices['count']} x {devices['kind']}", "")]


def _mean(rows: Sequence[Row], name: str, weights: np.ndarray) -> float | None:
    """Returns the mean over the steps of all rows that know a number."""
    pairs = zip(rows, weights, strict=True)
    known = [(row[name], weight) for row, weight in pairs if row.get(name) is not None]
    if not known:
        return None
    values, counts = zip(*known, strict=True)
    return float(np.average(values, weights=counts))


def _logs(steps: Sequence[Row], evaluations: Sequence[Row]) -> list[tuple[str, Any, Any, str]]:
    """Returns title, head, rows and caption of a table of steps and one of evaluations."""
    tables = []
    if steps:
        names = plots.numeric_fields(steps)
        shown, caption = _spread(steps, "logged steps")
        rows = [(row["step"], *(_number(row.get(name)) for name in names)) for row in shown]
        tables.append(("Training as a table", ["step", *names], rows, caption))
    if evaluations:
        named = [f"AR@{limit}" for limit in LIMITS]
        head = ["step", *named, *(f"fast {n}" for n in named), *(f"AR@1000 {s}" for s in SIZES)]
        shown, caption = _spread(evaluations, "evaluations; percent")
        rows = [
            (
                row["step"],
                *(percent(row[name]) for name in named),
                *(percent(row["fast"][name]) for name in named),
                *(percent(row["recall_by_size"][size]) for size in SIZES),
            )
            for row in shown
        ]
        tables.append(("Evaluations as a table", head, rows, caption))
    return tables


def _spread(rows: Sequence[Row], what: str) -> tuple[list[Row], str]:
    """Returns rows evenly spread over a run, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, MAX_TABLE_ROWS).round().astype(int))
    return [rows[i] for i in chosen], f"{len(chosen)} of {len(rows)} {what}"


def _number(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _configuration(config: Config) -> dict[str, Any]:
    """Returns all fields, and those that differ from the defaults."""

    def flat(config: Config) -> dict[str, str]:
        groups = dataclasses.asdict(config).items()
        nested = {group: fields for group, fields in groups if isinstance(fields, dict)}
        return {f"{g}.{k}": _shown(v) for g, fields in nested.items() for k, v in fields.items()}

    fields, defaults = flat(config), flat(Config())
    changed = [(k, v, defaults[k]) for k, v in fields.items() if v != defaults[k]]
    return {"changed": changed, "fields": list(fields.items())}


def _shown(value: Any) -> str:
    """Returns a field's value much as on the command line; an empty text as one sees it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return str(value) or "(none)"


def _machine(values: Row) -> list[tuple[str, str]]:
    devices, memory = values["devices"], values["memory_gb"]
    return [
        ("Devices", f"{devices['count']} x {devices['kind']}"),
        ("Runtime", devices["runtime"]),
        ("Processor", f"{values['cpu']}, {values['cores']} cores"),
        ("Memory", "unknown" if memory is None else f"{memory:.4g} GB"),
        ("System", values["system"]),
        *values["versions"].items(),
    ]


def _samples(path: Path) -> Plot | None:
    """Returns the drawn validation images as a JPEG of bounded size."""
    if not path.exists():
        return None
    try:
        image = Image.open(path).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: not an image; delete it or evaluate again") from error
    text = (
        "Validation images with the boxes to find, solid where a proposal has an IoU of at least "
        "0.5 and dashed where none has, and the best proposal for each."
    )
    width = min(MAX_IMAGE_WIDTH, image.width)
    while True:
        small = image.resize((width, max(1, round(image.height * width / image.width))))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=85)
        if len(file.getvalue()) <= MAX_IMAGE_BYTES:
            uri = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
            return Plot(uri, text, small.width, small.height)
        width = width * 3 // 4
