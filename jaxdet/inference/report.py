"""`report.html`: a run on one page that needs no other file, no network and no scripts.

It is made from what the work directory holds; `report.html.jinja` says how it looks.
"""

import base64
import dataclasses
import io
from collections.abc import Callable, Sequence
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from flax.traverse_util import flatten_dict
from PIL import Image

from jaxdet.config import Config
from jaxdet.distributed import is_first_host
from jaxdet.environment import environment, peak_memory
from jaxdet.errors import InputError
from jaxdet.files import write_json, write_whole
from jaxdet.inference import average_precision
from jaxdet.inference.average_precision import KINDS
from jaxdet.inference.recall import LIMITS, SIZES, percent, table_rows
from jaxdet.inference.results import kind_of, score_of
from jaxdet.training.metric_writer import read_rows
from jaxdet.training.workdir import read_record
from jaxdet.zoo.published import PUBLISHED

MAX_IMAGE_SIZE = (1800, 1900)  # pixels of the embedded image, (width, height)
MAX_TABLE_ROWS = 30
# What a record of another form may raise.
ODD_RECORDS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

Row = dict[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[Any]]]  # head and rows
Fact = tuple[str, str, str]  # name, value and remark


def write_report(workdir: Path, config: Config, trained: bool = False) -> None:
    """Writes `report.html` into a work directory, on the first host only, whole or not at all.

    What the work directory does not hold yet is left out of the page.  If this process `trained`,
    its machine and its peak memory are kept in `environment.json`, for pages made elsewhere.
    """
    if not is_first_host():
        return
    if trained:
        write_json(workdir / "environment.json", _this_machine("trained"))
    try:
        text = _render(workdir, config)
    except InputError:
        raise
    except (*ODD_RECORDS, jinja2.UndefinedError) as error:
        raise InputError(
            f"{workdir}: its eval.json, metrics.jsonl or environment.json is not what a run writes "
            f"({type(error).__name__}: {' '.join(str(error).split())}); delete it or evaluate again"
        ) from error
    # A path in a config may hold bytes that are no text.
    write_whole(workdir / "report.html", text.encode("utf-8", "replace"))


def _this_machine(process: str) -> Row:
    peak, owner = peak_memory()
    return {**environment(), "process": process, "peak_memory_gb": peak, "memory_of": owner}


def _render(workdir: Path, config: Config) -> str:
    from jaxdet.inference import plots  # late: matplotlib, which most commands do without

    rows = read_rows(workdir / "metrics.jsonl")
    # In the order of their steps, the last written one of each.
    last = {(row["kind"], row["step"]): row for row in rows}
    ordered = [last[key] for key in sorted(last)]
    steps, evaluations = ([r for r in ordered if r["kind"] == k] for k in ("train", "eval"))
    names = _numeric_fields(steps)
    result = read_record(workdir / "eval.json")
    kind = kind_of(result)
    machine = read_record(workdir / "environment.json") or _this_machine("wrote this page")
    named = [row.ar1000 or row.box_ap for row in PUBLISHED if row.config == config.name]
    published = named[0] if named and config.data.name != "shapes" else None
    values, defaults = (flatten_dict(dataclasses.asdict(c), sep=".") for c in (config, Config()))
    fields = [(name, value, defaults[name]) for name, value in values.items()]
    loader = jinja2.PackageLoader("jaxdet", "inference")
    templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    templates.filters["percent"] = percent
    return templates.get_template("report.html.jinja").render(
        config=config,
        result=result,
        machine=machine,
        kind=kind,
        score=score_of(result) if result else None,
        limits=LIMITS,
        kinds=[(key, name) for key, name in KINDS.items() if key in result],
        published=published,
        tables=_tables(result) if result else [],
        facts=_facts(steps, evaluations),
        recall_plot=plots.recall(result) if "recall_by_iou" in result else None,
        curves=plots.curves(steps, evaluations, names) if steps else None,
        step_table=_log_table(steps, names, _number),
        evaluation_table=_log_table(evaluations, _logged_figures(evaluations), percent),
        samples=_samples(workdir / f"{kind}.png"),
        fields=fields,
        changed=[field for field in fields if field[1] != field[2]],
        environment=list(flatten_dict(machine, sep=".").items()),
    )


def _numeric_fields(rows: Sequence[Row]) -> list[str]:
    """Returns the names of what has numbers (null: one that was not finite), as they appear."""
    items = [item for row in rows for item in row.items()]
    names = dict.fromkeys(name for name, value in items if type(value) in (int, float, type(None)))
    return [name for name in names if name != "step"]


def _tables(result: Row) -> list[average_precision.Table]:
    if kind_of(result) == "detections":
        return average_precision.tables(result)
    head = ["percent of boxes, among the best", *map(str, LIMITS)]
    return [("Recall", head, table_rows(result))]


def _logged_figures(evaluations: list[Row]) -> list[str]:
    if any(kind_of(row) == "detections" for row in evaluations):
        kinds = [kind for kind in KINDS if kind in evaluations[-1]]
        return [f"{kind} {name}" for kind in kinds for name in average_precision.FIGURES[:6]]
    recalls = [f"{way}AR@{limit}" for way in ("", "fast ") for limit in LIMITS]
    return recalls + [f"recall_by_size {size}" for size in SIZES]


def _facts(steps: list[Row], evaluations: list[Row]) -> list[Fact]:
    facts = []
    if steps:
        last = steps[-1]
        # A row has the means over the steps since the row before.
        counts = np.diff([0, *(row["step"] for row in steps)])
        columns = ([row.get(k) for row in steps] for k in ("seconds_per_step", "wait_share"))
        seconds, waited = (np.nansum(counts * np.array(c, np.float64)) for c in columns)
        facts += [
            ("Steps", str(last["step"]), f"{last.get('epoch')} epochs"),
            ("Last loss", _number(last.get("loss")), f"at step {last['step']}"),
            ("Time in steps", str(timedelta(seconds=round(seconds))), "hours, minutes, seconds"),
            ("Waited for data", f"{100 * waited / last['step']:.1f} %", "of that time"),
        ]
    scores = [(*score_of(row), row["step"]) for row in evaluations]
    scored = [(value, name, step) for name, value, step in scores if value is not None]
    if len(scored) > 1:
        value, name, step = max(scored, key=itemgetter(0))
        facts.append((f"Best {name}", percent(value), f"at step {step}"))
    return facts


def _log_table(rows: list[Row], names: list[str], text: Callable[[Any], str]) -> Table | None:
    """Returns rows evenly spread over a run, the first and the last among them."""
    if not rows:
        return None
    chosen = np.unique(np.linspace(0, len(rows) - 1, MAX_TABLE_ROWS).round().astype(int))
    shown = [flatten_dict(rows[i], sep=" ") for i in chosen]
    cells = [(row["step"], *(text(row.get(name)) for name in names)) for row in shown]
    return [f"step ({len(shown)} of {len(rows)})", *names], cells


def _number(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _samples(path: Path) -> str | None:
    """Returns the drawn validation images as a JPEG of bounded size."""
    if not path.exists():
        return None
    try:
        image = Image.open(path).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: not an image; delete it or evaluate again") from error
    image.thumbnail(MAX_IMAGE_SIZE)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
