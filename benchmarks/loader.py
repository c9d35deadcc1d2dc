"""The training loader, from JPEGs on disk to batches of two: jaxdet beside the reference's recipe.

    python -m benchmarks.loader

The same images and as many processes for both.  The reference's recipe normalises to float32 in
the loader; jaxdet hands over bytes, padded to a bucket, and the network normalises them, which
`benchmarks/forward.py` counts.  The clock starts with the first batch, when processes run.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.images import write_images
from benchmarks.timing import median_rates, save, torch
from jaxdet.config import Config
from jaxdet.data.coco import coco_paths, load_coco
from jaxdet.data.dataset import Dataset
from jaxdet.data.pipeline import train_batches

BATCH = 2


def our_batches(dataset: Dataset, steps: int, workers: int) -> Iterator[int]:
    """The number of images of each batch."""
    data = dataclasses.replace(Config().data, num_workers=workers)
    with train_batches(dataset, data, global_batch=BATCH, seed=0, num_steps=steps) as loader:
        for batch, _ in loader:
            yield len(batch.image)


def plain_batches(dataset: Dataset, steps: int, workers: int) -> Iterator[int]:
    """The same by PyTorch."""
    from benchmarks.plain_loader import Groups, plain_loader

    epochs = -(-steps * BATCH // len(dataset))
    sampler = Groups(dataset.widths > dataset.heights, BATCH, epochs)
    for images, *_ in plain_loader(plain_images(dataset, flip=True), sampler, workers):
        yield len(images)


def plain_images(dataset: Dataset, flip: bool) -> Any:
    """The data set as PyTorch's loader takes it."""
    from benchmarks.plain_loader import Images, Settings

    config = Config()
    model, data = config.model, config.data
    long, short = data.image_scale
    settings = Settings(
        (long, short), model.pixel_mean, model.pixel_std, data.flip if flip else 0.0
    )
    paths = [str(dataset.path_of(i)) for i in range(len(dataset))]
    return Images(paths, [dataset.boxes_of(i) for i in range(len(dataset))], settings)


def after_the_first(batches: Iterator[int]) -> float:
    """Images per second of all batches but the first."""
    next(batches)
    start = time.perf_counter()
    count = sum(batches)
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=72)
    parser.add_argument("--steps", type=int, default=108)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_coco(*coco_paths(write_images(Path(folder), args.images), "train"))
        sides = {"jaxdet": our_batches, **({"eager": plain_batches} if torch else {})}
        runs = {
            name: partial(side, dataset, args.steps, args.workers) for name, side in sides.items()
        }
        row = median_rates(runs, args.rounds, after_the_first)
    print(", ".join(f"{name} {value:.2f}" for name, value in row.items()), "(images/s)")
    save("loader", [{"workers": args.workers, "batch": BATCH, "steps": args.steps, **row}])


if __name__ == "__main__":
    main()
