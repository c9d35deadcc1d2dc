"""Runs a predictor over images or a data set, and measures precision or recall, and speed."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxdet.data.buckets import Size, empty_batch
from jaxdet.data.dataset import Dataset
from jaxdet.data.images import Stored
from jaxdet.data.pipeline import eval_batches, image_batches
from jaxdet.distributed import gather, print_once
from jaxdet.inference.predictor import Predictor
from jaxdet.inference.single import Result, result_of
from jaxdet.types import Batch, Predictions


class _Running:
    """A predictor at work on batches; `images` and `seconds` say how much was done so far.

    `seconds` is what the host waited.  Loading, network and post-processing run at the same time,
    so each counts where the others do not hide it: `data` is the wait for the loader, `forward` the
    rest of the wait for the devices, `post` what the host does with their results.
    """

    def __init__(
        self, predictor: Predictor, top: int | None = None, threshold: float = 0.0
    ) -> None:
        self.images = 0
        self.seconds = {"data": 0.0, "forward": 0.0, "post": 0.0}
        self._predictor, self._top, self._threshold = predictor, top, threshold
        self._batch_size = predictor.config.proposals.batch_size * predictor.mesh.size
        self._compiled_before = predictor.programs.seconds

    def speed(self) -> dict[str, Any]:
        """Returns the fields of `eval.json`; compiling is apart from the rest."""
        return {
            "images_per_second": self.images / sum(self.seconds.values()),
            "seconds_per_image": {k: v / self.images for k, v in self.seconds.items()},
            "compile_seconds": self._predictor.programs.seconds - self._compiled_before,
        }

    def _size_of(self, place: int) -> Size:
        """Returns the own (height, width) of the image that a batch's `index` names."""
        raise NotImplementedError

    def _results(self, batches: Iterator[Batch]) -> Iterator[tuple[int, Result]]:
        # The devices work on a batch while the host loads the next and unpacks the one before.
        previous: tuple[Batch, Predictions] | None = None
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            self.seconds["data"] += time.perf_counter() - begun
            current = batch and (batch, self._start(batch))
            if previous is not None:
                yield from self._finish(*previous)
            if current is None:
                return
            previous = current

    def _start(self, batch: Batch) -> Predictions:
        bucket = batch.image.shape[1:3]
        if self._predictor.compile(self._batch_size, bucket):
            print_once(f"compiled for {bucket[0]} x {bucket[1]}")
        begun = time.perf_counter()
        started = self._predictor.start(batch)
        self.seconds["forward"] += time.perf_counter() - begun
        return started

    def _finish(self, batch: Batch, started: Predictions) -> Iterator[tuple[int, Result]]:
        """Waits for a batch, and yields its images (fillers left out) in original pixels."""
        begun = time.perf_counter()
        jax.block_until_ready(started)
        ready = time.perf_counter()
        used = started, batch.index, batch.scale, batch.image_size
        predictions, index, scale, image_size = gather(used, self._predictor.mesh)
        rows, config = batch._replace(scale=scale, image_size=image_size), self._predictor.config
        limits = self._top, self._threshold
        found = [
            (place, result_of(predictions, rows, config, self._size_of(place), row, True, *limits))
            for row, place in enumerate(index.tolist())
            if place >= 0
        ]
        self.seconds["forward"] += ready - begun
        self.seconds["post"] += time.perf_counter() - ready
        self.images += len(found)
        yield from found


class DatasetPredictions(_Running):
    """The position and the predictions of every image of a data set; iterate over them once.

    Masks are COCO's RLE.  They come in the loader's order, and every host sees those of all images.
    The predictor's config says how many images go together, and how they are loaded.
    """

    def __init__(self, predictor: Predictor, dataset: Dataset) -> None:
        super().__init__(predictor)
        self._dataset = dataset

    def __iter__(self) -> Iterator[tuple[int, Result]]:
        """Yields each image's predictions; raises `InputError` if one cannot be read."""
        with eval_batches(
            self._dataset,
            self._predictor.config.data,
            batch_size=self._batch_size,
            host=(jax.process_index(), jax.process_count()),
        ) as batches:
            yield from self._results(element.batch for element in batches)

    def _size_of(self, place: int) -> Size:
        return int(self._dataset.heights[place]), int(self._dataset.widths[place])


class ImagePredictions(_Running):
    """The predictions of images as they are loaded.

    The mesh is this host's alone.  What is held at a time does not grow with the images: those of a
    bucket wait until they fill a batch, or until the last of a part has been loaded.
    """

    def __init__(self, predictor: Predictor, top: int | None, threshold: float) -> None:
        super().__init__(predictor, top, threshold)
        self._sizes: dict[int, Size] = {}  # of images in the works
        self._faults = deque[tuple[int, str]]()

    def of(
        self, images: Sequence[Stored], ends: Collection[int]
    ) -> Iterator[tuple[int, Size, Result | str]]:
        """Yields each image's position, (height, width) and predictions.

        Of one that cannot be read the last is a line.  `ends` has the position that follows the
        last of each part.
        """
        for place, found in self._results(self._batches(images, ends)):
            yield from self._unreadable()
            yield place, self._sizes.pop(place), found
        yield from self._unreadable()

    def _unreadable(self) -> Iterator[tuple[int, Size, str]]:
        while self._faults:
            place, line = self._faults.popleft()
            yield place, (0, 0), line

    def _size_of(self, place: int) -> Size:
        return self._sizes[place]

    def _batches(self, images: Sequence[Stored], ends: Collection[int]) -> Iterator[Batch]:
        data, waiting = self._predictor.config.data, dict[Size, list[Batch]]()
        with image_batches(images, data, ahead=self._batch_size) as elements:
            for place, element in enumerate(elements):
                if element.skipped:
                    self._faults.append((place, element.skipped[0]))
                else:
                    self._sizes[place] = element.size
                    bucket = element.batch.image.shape[1:3]
                    rows = waiting.setdefault(bucket, [])
                    rows.append(element.batch)
                    if len(rows) == self._batch_size:
                        yield _joined(waiting.pop(bucket))
                if place + 1 in ends:
                    for bucket, rows in waiting.items():
                        filler = empty_batch(bucket, 1, data.pixel_dtype)
                        yield _joined(rows + [filler] * (self._batch_size - len(rows)))
                    waiting.clear()


def _joined(rows: Sequence[Batch]) -> Batch:
    if len(rows) == 1:
        return rows[0]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)


def evaluate(
    predictor: Predictor, dataset: Dataset, check: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], list[Result]]:
    """Returns what `eval.json` holds, and the predictions it was measured on, by image.

    `check` is called after every image, and may raise what ends the evaluation.
    The fields are those of `DatasetPredictions.speed`, and of a detector with classes those of
    `average_precision.evaluate_detections`, of others those of `recall.evaluate_proposals`.
    """
    # Late: predicting needs no pycocotools' evaluation, nor matplotlib that comes along.
    from jaxdet.inference.average_precision import evaluate_detections
    from jaxdet.inference.recall import evaluate_proposals

    run = DatasetPredictions(predictor, dataset)
    by_image = dict[int, Result]()
    for i, found in run:
        by_image[i] = found
        check()
    results = [by_image[i] for i in range(len(dataset))]
    measure = evaluate_detections if predictor.config.model.class_names else evaluate_proposals
    return {**measure(dataset, results), **run.speed()}, results
