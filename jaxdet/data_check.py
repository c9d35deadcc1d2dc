"""`--mode=check`: what is wrong with a data set, before half a day is lost."""

from pathlib import Path
from typing import Any

import jax
from rich.progress import MofNCompleteColumn, TimeRemainingColumn

from jaxdet import console
from jaxdet.config import Config
from jaxdet.console import say
from jaxdet.data.check import (
    check_anchors,
    check_annotations,
    check_images,
    check_training,
    count_classes,
    fitting_scales,
)
from jaxdet.data.dataset import Dataset
from jaxdet.data.findings import Findings
from jaxdet.data.load import has_split, load_dataset
from jaxdet.distributed import is_first_host
from jaxdet.files import make_folder, write_json
from jaxdet.training.optimizer import global_batch
from jaxdet.training.workdir import require_same_run

SHOWN = 5  # lines printed of each kind; `check.json` has more


def run_check(config: Config, workdir: Path) -> None:
    """Reads both splits, prints what is wrong and writes `<workdir>/check.json`.

    Ends the program with code 1 if there are faults: what would stop a run or teach it something
    wrong.  Warnings are what the loader leaves out, clips or repairs.  Raises `InputError` if a
    split cannot be read at all, or the work directory cannot be written.
    """
    if not is_first_host():
        return
    path = workdir / "check.json"
    make_folder(workdir)
    if (run := workdir / "config.json").exists():
        require_same_run(run, config)
    findings = {
        x: Findings() for x in ("train", "val") if x == "train" or has_split(config.data, x)
    }
    # Both before the images of either, which take minutes.
    datasets = {split: load_dataset(config, split, findings[split]) for split in findings}
    if "val" not in datasets:
        say("no validation set: config.data.val_annotations is not set; nothing is measured")
    splits = {}
    for split, dataset in datasets.items():
        splits[split] = examine(config, split, dataset, findings[split])
        _print_split(split, splits[split])
    faults = [(split, kind) for split in splits for kind in splits[split]["faults"]]
    counts = {
        "faults": sum(kind["count"] for _, kind in faults),
        "warnings": sum(kind["count"] for each in splits.values() for kind in each["warnings"]),
    }
    write_json(path, {"config": config.name, **counts, "splits": splits})
    say(f"{counts['faults']} faults, {counts['warnings']} warnings; wrote {path}")
    if faults:
        said = ", ".join(f"{kind['count']} {kind['what']} ({split})" for split, kind in faults)
        console.fail(f"{counts['faults']} faults: {said}", 1)


def examine(config: Config, split: str, dataset: Dataset, findings: Findings) -> dict[str, Any]:
    """Returns what `check.json` says of a split; adds to its annotation file's findings."""
    title, count = f"decoding {split}", len(dataset)
    columns = MofNCompleteColumn(), TimeRemainingColumn()
    with console.progress(title, f"{title}: {count} images", *columns, total=count) as advance:
        check_images(dataset, findings, advance)
    check_annotations(dataset, findings)
    result: dict[str, Any] = {
        "source": dataset.source,
        "images": count,
        "annotations": len(dataset.area),
        "to_train_on": int(dataset.usable.sum()),
        "crowds": int(dataset.iscrowd.sum()),
        "ignored": int((dataset.ignore & ~dataset.iscrowd).sum()),
        "classes": count_classes(dataset, findings),
    }
    if split == "train":
        batch = global_batch(config, jax.device_count())
        result["training"] = check_training(dataset, findings, config.data, batch)
        scales, share = fitting_scales(dataset, config)
        result["fitting"] = {"anchor_scales": scales, "from 0.5": round(share, 4)}
    # That no anchor fits an evaluated box is nothing to warn of.
    warned = findings if split == "train" else Findings()
    result["anchors"] = check_anchors(dataset, warned, config)
    result["faults"] = list(findings.faults.values())
    result["warnings"] = list(findings.warnings.values())
    return result


def _print_split(split: str, result: dict[str, Any]) -> None:
    parts = ("images", "annotations", "to_train_on", "crowds", "ignored")
    counts = ", ".join(f"{result[part]} {part.replace('_', ' ')}" for part in parts)
    say("", f"{split}: {result['source']}", counts)
    if result["classes"]:
        say("boxes of " + ", ".join(f"{name} {n}" for name, n in result["classes"].items()))
    if "training" in result:
        plan = result["training"]
        say(
            f"training: {plan['images']} images, {plan['steps_per_epoch']} steps an epoch at "
            f"{plan['global_batch']} images per step (devices: {jax.device_count()})"
        )
    if result["anchors"]:
        say(
            "boxes by the square root of COCO's area, that of width x height when resized and",
            "height over width, with the share of each bin whose best anchor overlaps so much:",
        )
        say(f"{'boxes by':20}" + "".join(f"{name:>11}" for name in result["anchors"]["all"]))
        for name, fit in result["anchors"].items():
            say(f"{name:20}" + "".join(f"{value:>11}" for value in fit.values()))
    if result.get("fitting", {}).get("anchor_scales"):
        scales, share = result["fitting"].values()
        flag = f'--config.model.anchor_scales="{tuple(scales)}"'
        say(f"{flag} would cover a share of {share:g} from 0.5")
    for name in ("faults", "warnings"):
        for kind in result[name]:
            say(f"{name[:-1].upper()}: {kind['count']} {kind['what']}")
            for line in kind["examples"][:SHOWN]:
                say(f"    {line}")
            if kind["count"] > SHOWN:
                say(f"    and {kind['count'] - SHOWN} more")
