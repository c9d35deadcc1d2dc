"""What a run leaves in its work directory besides checkpoints and logs."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdet.data.dataset import Dataset
from jaxdet.distributed import is_first_host
from jaxdet.errors import visible
from jaxdet.files import write_json, write_whole
from jaxdet.inference import average_precision, visualize
from jaxdet.inference.recall import LIMITS, table_rows
from jaxdet.inference.single import Result

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

    The drawings are `proposals.png`, or `detections.png` beside `detections.json`.  Raises
    `InputError` if an image cannot be read, or a file not be written.
    """
    kind = kind_of(result)
    everything = range(len(dataset))
    with_boxes = [i for i in everything if len(dataset.boxes_of(i))] or everything
    # Spread over the data set, the same images at every evaluation.
    chosen = with_boxes[:: max(len(with_boxes) // NUM_IMAGES, 1)][:NUM_IMAGES]
    if kind == "detections":
        title = f"the best detections of each image; box AP {result['bbox']['AP'] or 0:.3f}"
        legend, tables = visualize.DETECTIONS_LEGEND, average_precision.tables(result)
    else:
        title = f"the best 100 proposals of each image; AR@100 {result['AR@100'] or 0:.3f}"
        legend = visualize.PROPOSALS_LEGEND
        tables = [("Recall", ["proposals per image", *map(str, LIMITS)], table_rows(result))]
    drawings = [_draw(dataset, i, found[i]) for i in chosen]
    image = visualize.grid(drawings, [dataset.file_names[i] for i in chosen], title, legend)
    if is_first_host():
        caption = f"{result['num_images']} images, {result['num_boxes']} boxes; percent"
        for title, head, rows in tables:
            table = Table(*head, title=title, caption=caption)
            for row in rows:
                table.add_row(*(Text(visible(cell)) for cell in row))  # and no markup
            Console().print(table)
        write_json(workdir / "eval.json", {**result, "data": dataset.summary})
        visualize.write_png(workdir / f"{kind}.png", image)
        if kind == "detections":
            records = average_precision.coco_records(dataset, found)
            write_whole(workdir / "detections.json", msgspec.json.encode(records))
    return image


def _draw(dataset: Dataset, index: int, found: Result) -> visualize.Drawing:
    image, boxes, convention = dataset.read(index), dataset.boxes_of(index), dataset.convention
    if found.labels is None:
        return visualize.draw_proposals(image, boxes, found, convention)
    labels = dataset.labels_of(index)
    return visualize.draw_found(image, boxes, labels, dataset.class_names, found, convention)
