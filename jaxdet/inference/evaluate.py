"""Runs a predictor over a data set and measures its precision or recall, and its speed."""

import time
from collections.abc import Iterator
from typing import Any

import jax

from jaxdet.data.dataset import Dataset
from jaxdet.data.pipeline import eval_batches, eval_buckets
from jaxdet.distributed import gather, print_once
from jaxdet.inference.average_precision import evaluate_detections
from jaxdet.inference.predictor import Predictor
from jaxdet.inference.recall import evaluate_proposals
from jaxdet.inference.single import Result, result_of
from jaxdet.types import Batch, Predictions


class DatasetPredictions:
    """The position and the predictions of every image of a data set; iterate over them once.

    Masks are COCO's RLE.  They come in the loader's order, and every host sees those of all images.
    `images` counts those done so far, `unreadable` has a line for each one left out, and `seconds`
    is what the host waited.  Loading, network and post-processing run at the same time, so each
    counts where the others do not hide it: `data` is the wait for the loader, `forward` the rest of
    the wait for the devices, `post` what the host does with their results.
    """

    def __init__(
        self, predictor: Predictor, dataset: Dataset, skip_unreadable: bool = False
    ) -> None:
        """Compiles all programs that the data set needs, with a line for each.

        The predictor's config says how many images go together, and how they are loaded.  With
        `skip_unreadable` images that cannot be read are left out; else they end the iteration.
        """
        self.images, self.unreadable = 0, list[str]()
        self.seconds = {"data": 0.0, "forward": 0.0, "post": 0.0}
        self._predictor, self._dataset, self._skip = predictor, dataset, skip_unreadable
        self._batch_size = predictor.config.proposals.batch_size * predictor.mesh.size
        before = predictor.programs.seconds
        for bucket in eval_buckets(dataset, predictor.config.data):
            if predictor.compile(self._batch_size, bucket):
                print_once(f"compiled for {bucket[0]} x {bucket[1]}")
        self._compile_seconds = predictor.programs.seconds - before

    def speed(self) -> dict[str, Any]:
        """Returns the fields of `eval.json`; compiling is apart from the rest."""
        return {
            "images_per_second": self.images / sum(self.seconds.values()),
            "seconds_per_image": {k: v / self.images for k, v in self.seconds.items()},
            "compile_seconds": self._compile_seconds,
        }

    def __iter__(self) -> Iterator[tuple[int, Result]]:
        """Yields each image's predictions; raises `InputError` if one cannot be read."""
        with eval_batches(
            self._dataset,
            self._predictor.config.data,
            batch_size=self._batch_size,
            host=(jax.process_index(), jax.process_count()),
            skip_unreadable=self._skip,
        ) as batches:
            # The devices work on a batch while the host loads the next and unpacks the one before.
            previous: tuple[Batch, Predictions] | None = None
            while True:
                begun = time.perf_counter()
                element = next(batches, None)
                loaded = time.perf_counter()
                current = element and (element.batch, self._predictor.start(element.batch))
                self.seconds["data"] += loaded - begun
                self.seconds["forward"] += time.perf_counter() - loaded
                if previous is not None:
                    yield from self._finish(*previous)
                if element is None:
                    return
                self.unreadable += element.skipped
                previous = current

    def _finish(self, batch: Batch, started: Predictions) -> Iterator[tuple[int, Result]]:
        """Waits for a batch, and yields its images (fillers left out) in original pixels."""
        begun = time.perf_counter()
        jax.block_until_ready(started)
        ready = time.perf_counter()
        used = started, batch.index, batch.scale, batch.image_size
        predictions, index, scale, image_size = gather(used)
        rows, config = batch._replace(scale=scale, image_size=image_size), self._predictor.config
        heights, widths = self._dataset.heights, self._dataset.widths
        found = []
        for row, place in enumerate(index.tolist()):
            if place >= 0:
                size = int(heights[place]), int(widths[place])
                found.append((place, result_of(predictions, rows, config, size, row, rle=True)))
        self.seconds["forward"] += ready - begun
        self.seconds["post"] += time.perf_counter() - ready
        self.images += len(found)
        yield from found


def evaluate(predictor: Predictor, dataset: Dataset) -> tuple[dict[str, Any], list[Result]]:
    """Returns what `eval.json` holds, and the predictions it was measured on, by image.

    The fields are those of `DatasetPredictions.speed`, and of a detector with classes those of
    `average_precision.evaluate_detections`, of others those of `recall.evaluate_proposals`.
    """
    run = DatasetPredictions(predictor, dataset)
    by_image = dict(run)
    results = [by_image[i] for i in range(len(dataset))]
    measure = evaluate_detections if predictor.config.model.class_names else evaluate_proposals
    return {**measure(dataset, results), **run.speed()}, results
