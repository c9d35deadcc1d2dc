"""`--mode=check`: what is wrong with a data set, before half a day is lost."""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, TimeRemainingColumn
from rich.table import Table

from jaxdet import console
from jaxdet.config import Config
from jaxdet.data.check import (
    boxes_as_trained,
    check_annotations,
    check_images,
    check_training,
    count_annotations,
    count_buckets,
)
from jaxdet.data.coverage import best_ious, summarise
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Finding, Findings, Report
from jaxdet.data.load import load_dataset
from jaxdet.distributed import is_first_host
from jaxdet.files import make_folder, write_json
from jaxdet.ops.boxes import sides
from jaxdet.training.optimizer import global_batch

# Lines printed of each kind; `check.json` has more.
SHOWN = 5

_BINS = {
    "size": "area",
    "side": "resized side",
    "aspect": "height:width",
}


def run_check(config: Config, workdir: Path) -> None:
    """Reads both splits, prints what is wrong and writes `<workdir>/check.json`.

    Ends the program with code 1 if there are faults: what would stop a run or teach it something
    wrong.  Warnings are what the loader leaves out, clips or repairs.

    Raises:
        InputError: a split cannot be read at all, or the work directory cannot be written.
    """
    if not is_first_host():
        return
    path = workdir / "check.json"
    make_folder(workdir)
    findings = {split: Findings() for split in ("train", "val")}
    # Both before the images of either, which take minutes.
    datasets = {split: load_dataset(config, split, findings[split]) for split in findings}
    splits = {}
    for split, dataset in datasets.items():
        splits[split] = examine(config, split, dataset, findings[split])
        _print_split(config, split, splits[split])
    faults = {split: each.faults for split, each in findings.items()}
    counts = {
        "faults": sum(kind.count for kinds in faults.values() for kind in kinds),
        "warnings": sum(kind.count for each in findings.values() for kind in each.warnings),
    }
    write_json(path, {"config": config.name, **counts, "splits": splits})
    _print(f"{counts['faults']} faults, {counts['warnings']} warnings; wrote {path}")
    if counts["faults"]:
        said = (f"{kind.count} {kind.what} ({s})" for s, kinds in faults.items() for kind in kinds)
        console.fail(f"{counts['faults']} faults: {', '.join(said)}", 1)


def examine(config: Config, split: str, dataset: Dataset, findings: Findings) -> dict[str, Any]:
    """Returns what `check.json` says of a split; adds to its annotation file's findings."""
    title, count = f"decoding {split}", len(dataset)
    columns = MofNCompleteColumn(), TimeRemainingColumn()
    with console.progress(title, f"{title}: {count} images", *columns, total=count) as advance:
        check_images(dataset, findings, advance)
    check_annotations(dataset, findings)
    result: dict[str, Any] = {"source": dataset.source, "images": len(dataset)}
    result |= count_annotations(dataset)
    if split == "train":
        result["training"] = check_training(
            dataset,
            findings,
            config.data,
            global_batch(config, jax.device_count()),
        )
    buckets = count_buckets(dataset, config.data)
    result["buckets"] = [{"size": size, "images": n} for size, n in buckets.items()]
    result["anchors"] = _coverage(config, split, dataset, findings)
    for name, kinds in (("faults", findings.faults), ("warnings", findings.warnings)):
        result[name] = [{"what": k.what, "count": k.count, "examples": k.lines} for k in kinds]
    return result


def _coverage(config: Config, split: str, dataset: Dataset, report: Report) -> dict[str, Any]:
    boxes, sizes = boxes_as_trained(dataset, config.data)
    ious = best_ious(boxes, sizes, config.model)
    least = config.targets.min_positive_iou
    usable = np.flatnonzero(dataset.usable)

    def line(i: int) -> str:
        width, height = sides(boxes[i], dataset.convention)
        image = np.searchsorted(dataset.offsets, usable[i], side="right") - 1
        return (
            f"annotation {dataset.annotation_ids[usable[i]]} of image {dataset.image_ids[image]} "
            f"({dataset.file_names[image]}): {width:.0f} x {height:.0f} pixels when resized, "
            f"best IoU {ious[i]:.2f}"
        )

    if split == "train":
        what = f"boxes that no anchor overlaps by {least:g}: not learned"
        report(Finding(what, np.flatnonzero(ious < least), line, harmless=True))
    areas = dataset.area[dataset.usable]
    return summarise(boxes, areas, ious, config.targets)


def _print(text: str) -> None:
    """Prints one line however long, in whatever letters the terminal has."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _print_split(config: Config, split: str, result: dict[str, Any]) -> None:
    parts = ("to_train_on", "crowds", "ignored", "degenerate")
    total = result["annotations"]
    shares = ", ".join(
        f"{result[part]} {part.replace('_', ' ')} ({_percent(result[part] / total)} %)"
        for part in parts
        if total
    )
    _print(f"\n{split}: {result['source']}")
    _print(f"{result['images']} images, {total} annotations{': ' if shares else ''}{shares}")
    if "training" in result:
        plan = result["training"]
        _print(
            f"training: {plan['images']} images, {plan['steps_per_epoch']} steps an epoch at "
            f"{plan['global_batch']} images per step (devices: {jax.device_count()})"
        )
    held = ", ".join(f"{b['size'][0]} x {b['size'][1]}: {b['images']}" for b in result["buckets"])
    _print(f"buckets: {held}")
    if result["anchors"]["all"]["boxes"]:
        Console().print(_table(config, split, result["anchors"]))
    for name in ("faults", "warnings"):
        for kind in result[name]:
            _print(f"{name[:-1].upper()}: {kind['count']} {kind['what']}")
            for line in kind["examples"][:SHOWN]:
                _print(f"    {line}")
            if kind["count"] > SHOWN:
                _print(f"    and {kind['count'] - SHOWN} more")


def _table(config: Config, split: str, anchors: dict[str, Any]) -> Table:
    table = Table(
        title=f"Boxes of {split}, and the best anchor of each",
        caption="area as in COCO; resized side: pixels, square root of width x height\n"
        "from, under: percent of the row by best IoU with any anchor",
    )
    columns = {
        f"from {config.targets.positive_iou:g}": "from_positive_iou",
        "from 0.5": "from_0.5",  # the same column, where that is the threshold
        f"under {config.targets.min_positive_iou:g}": "under_min_positive_iou",
    }
    table.add_column("boxes by")
    for name in ("boxes", "percent", "mean IoU", *columns):
        table.add_column(name, justify="right")

    def add_row(name: str, fit: dict[str, Any]) -> None:
        shares = [_percent(fit[key]) for key in columns.values()]
        mean = f"{fit['mean_best_iou']:.2f}"
        table.add_row(name, str(fit["boxes"]), _percent(fit["share"]), mean, *shares)

    add_row("all", anchors["all"])
    for key, title in _BINS.items():
        table.add_section()
        table.add_row(f"[b]{title}[/b]")
        for name, fit in anchors[key].items():
            if fit["boxes"]:
                add_row(name, fit)
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
