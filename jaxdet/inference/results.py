"""What a run leaves in its work directory besides checkpoints and logs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdet.data.dataset import Dataset
from jaxdet.distributed import is_first_host
from jaxdet.files import whole, write_json, write_whole
from jaxdet.inference import average_precision
from jaxdet.inference.recall import LIMITS, table_rows
from jaxdet.inference.single import Result
from jaxdet.inference.visualize import (
    DETECTIONS_LEGEND,
    Drawing,
    draw_found,
    draw_proposals,
    grid,
    write_png,
)

NUM_IMAGES = 8


def kind_of(result: dict[str, Any]) -> str:
    """Returns "detections" or "proposals": of which an evaluation made the figures."""
    return "detections" if "bbox" in result else "proposals"


def score_of(result: dict[str, Any]) -> tuple[str, float | None]:
    """Returns the name and the value of the figure that says how good a model is."""
    if kind_of(result) == "detections":
        return "box AP", result["bbox"]["AP"]
    return "AR@1000", result["AR@1000"]


def write_evaluation(
    workdir: Path, result: dict[str, Any], dataset: Dataset, found: list[Result]
) -> np.ndarray:
    """Prints tables, writes `eval.json` and drawings; returns the image that these are on.

    The drawings are `proposals.png`, or `detections.png` beside `detections.json`.

    Raises:
        InputError: an image cannot be read, or a file not be written.
    """
    kind = kind_of(result)
    everything = range(len(dataset))
    with_boxes = [i for i in everything if len(dataset.boxes_of(i))] or everything
    # Spread over the data set, the same images at every evaluation.
    chosen = with_boxes[:: max(len(with_boxes) // NUM_IMAGES, 1)][:NUM_IMAGES]
    names = [dataset.file_names[i] for i in chosen]
    if kind == "detections":
        title = f"the best detections of each image; box AP {result['bbox']['AP'] or 0:.3f}"
        drawings = [_draw_detections(dataset, i, found[i]) for i in chosen]
        image = grid(drawings, names, title, DETECTIONS_LEGEND)
        tables = average_precision.tables(result)
    else:
        title = f"the best 100 proposals of each image; AR@100 {result['AR@100'] or 0:.3f}"
        drawings = [_draw_proposals(dataset, i, found[i]) for i in chosen]
        image = grid(drawings, names, title)
        tables = [("Recall", ["proposals per image", *map(str, LIMITS)], table_rows(result))]
    if is_first_host():
        caption = f"{result['num_images']} images, {result['num_boxes']} boxes; percent"
        for title, head, rows in tables:
            _print_table(title, head, rows, caption)
        write_json(workdir / "eval.json", {**result, "data": dataset.summary})
        write_png(workdir / f"{kind}.png", image)
        if kind == "detections":
            records = average_precision.coco_records(dataset, found)
            write_whole(workdir / "detections.json", msgspec.json.encode(records))
    return image


def _draw_proposals(dataset: Dataset, index: int, found: Result) -> Drawing:
    image, boxes = dataset.read(index), dataset.boxes_of(index)
    return draw_proposals(image, boxes, *found[:2], convention=dataset.convention)


def _draw_detections(dataset: Dataset, index: int, found: Result) -> Drawing:
    truth = dataset.boxes_of(index), dataset.labels_of(index), dataset.class_names
    return draw_found(dataset.read(index), *truth, found, dataset.convention)


def _print_table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], caption: str
) -> None:
    """Prints a table; what a file says is no markup."""
    table = Table(*head, title=title, caption=caption)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def write_proposals(workdir: Path, dataset: Any, proposals: list[Result]) -> None:
    """Writes `proposals.npz`: image_id [I], count [I], and boxes and scores of all, in order.

    Raises:
        InputError: the file cannot be written.
    """
    if not is_first_host():
        return
    with whole(workdir / "proposals.npz") as file:
        np.savez_compressed(
            file,
            image_id=dataset.image_ids,
            count=[len(p.scores) for p in proposals],
            boxes=np.concatenate([p.boxes for p in proposals]),
            scores=np.concatenate([p.scores for p in proposals]),
        )
