"""What a run leaves in its work directory besides checkpoints and logs."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxdet.config import Config
from jaxdet.devices import is_first_host
from jaxdet.errors import InputError
from jaxdet.evaluate import ImageProposals
from jaxdet.metrics import format_table
from jaxdet.visualize import draw_proposals, proposal_grid, write_png

# A run may be resumed with another value of these: they do not change what is learned.
FREE_FIELDS = (
    ("data", "root"),
    ("data", "num_workers"),
    ("train", "num_epochs"),
    ("train", "num_steps"),
    ("train", "log_every"),
    ("train", "eval_every"),
    ("train", "checkpoint_every"),
    ("train", "keep_checkpoints"),
)
NUM_PICTURES = 8


def say(text: str) -> None:
    """Prints a line, on the first host only, at once."""
    if is_first_host():
        print(text, flush=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def claim_workdir(workdir: Path, config: Config) -> None:
    """Makes the folder and leaves `config.json` there, or checks that it is this config's.

    Raises:
        InputError: the folder cannot be written, or belongs to another config.
    """
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _require_same_run(json.loads(path.read_text()), copy.deepcopy(wanted), path)
        if is_first_host():
            write_json(path, wanted)
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: {error}; choose another --workdir") from error


def write_evaluation(
    workdir: Path, result: dict[str, Any], dataset: Any, proposals: list[ImageProposals]
) -> np.ndarray:
    """Prints the table, writes `eval.json` and `proposals.png`; returns the picture."""
    with_boxes = [i for i in range(len(dataset)) if len(dataset.boxes_of(i))]
    # Spread over the data set, the same pictures at every evaluation.
    chosen = with_boxes[:: max(len(with_boxes) // NUM_PICTURES, 1)][:NUM_PICTURES]
    drawings = [draw_proposals(dataset.read(i), dataset.boxes_of(i), *proposals[i]) for i in chosen]
    title = f"the best 100 proposals of each picture; AR@100 {result['AR@100'] or 0:.3f}"
    picture = proposal_grid(drawings, [dataset.file_names[i] for i in chosen], title)
    if is_first_host():
        Console().print(format_table(result))
        write_json(workdir / "eval.json", result)
        write_png(workdir / "proposals.png", picture)
    return picture


def write_proposals(workdir: Path, dataset: Any, proposals: list[ImageProposals]) -> None:
    """Writes `proposals.npz`: image_id [I], count [I], and boxes and scores of all, in order."""
    if not is_first_host():
        return
    temporary = workdir / ".proposals.npz.tmp"
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            image_id=dataset.image_ids,
            count=[len(p.scores) for p in proposals],
            boxes=np.concatenate([p.boxes for p in proposals]),
            scores=np.concatenate([p.scores for p in proposals]),
        )
    temporary.replace(workdir / "proposals.npz")


def _require_same_run(found: Any, wanted: Any, path: Path) -> None:
    for node, name in FREE_FIELDS:
        for config in (found, wanted):
            config.get(node, {}).pop(name, None)
    found, wanted = _flatten(found), _flatten(wanted)
    names = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    if names:
        first = ", ".join(f"{k} {found.get(k)} there, {wanted.get(k)} now" for k in names[:3])
        raise InputError(
            f"{path}: the work directory is of another config ({len(names)} fields differ: "
            f"{first}); choose another --workdir"
        )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flatten(item, f"{prefix}.{name}" if prefix else name)
    return flat
