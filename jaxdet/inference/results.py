"""What a run leaves in its work directory besides checkpoints and logs."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdet.distributed import is_first_host
from jaxdet.files import whole, write_json
from jaxdet.inference.recall import LIMITS, table_rows
from jaxdet.inference.single import Result
from jaxdet.inference.visualize import draw_proposals, proposal_grid, write_png

NUM_IMAGES = 8


def write_evaluation(
    workdir: Path, result: dict[str, Any], dataset: Any, proposals: list[Result]
) -> np.ndarray:
    """Prints the table, writes `eval.json` and `proposals.png`; returns the image.

    Raises:
        InputError: an image cannot be read, or a file not be written.
    """
    with_boxes = [i for i in range(len(dataset)) if len(dataset.boxes_of(i))]
    # Spread over the data set, the same images at every evaluation.
    chosen = with_boxes[:: max(len(with_boxes) // NUM_IMAGES, 1)][:NUM_IMAGES]
    convention = dataset.convention
    drawings = [
        draw_proposals(dataset.read(i), dataset.boxes_of(i), *proposals[i], convention=convention)
        for i in chosen
    ]
    title = f"the best 100 proposals of each image; AR@100 {result['AR@100'] or 0:.3f}"
    image = proposal_grid(drawings, [dataset.file_names[i] for i in chosen], title)
    if is_first_host():
        caption = f"{result['num_images']} images, {result['num_boxes']} boxes; percent"
        table = Table("proposals per image", *map(str, LIMITS), title="Recall", caption=caption)
        for row in table_rows(result):
            table.add_row(*row)
        Console().print(table)
        write_json(workdir / "eval.json", result)
        write_png(workdir / "proposals.png", image)
    return image


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
