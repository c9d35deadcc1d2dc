"""Runs a predictor over a data set and measures its recall and speed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from jaxdet.data.dataset import Dataset
from jaxdet.data.pipeline import eval_batches, eval_buckets
from jaxdet.distributed import gather, print_once
from jaxdet.inference.predictor import Predictor
from jaxdet.inference.recall import evaluate_proposals
from jaxdet.inference.single import Result, result_of
from jaxdet.types import Batch, Predictions


@dataclass
class Speed:
    """Seconds in which the host waited, summed over images; compiling is apart from the rest.

    Loading, network and post-processing run at the same time, so each counts where the others do
    not hide it: `data` is the wait for the loader, `forward` the rest of the wait for the
    devices, `post` what the host does with their results.
    """

    data: float = 0.0
    forward: float = 0.0
    post: float = 0.0
    compile: float = 0.0
    images: int = 0

    def summary(self) -> dict[str, Any]:
        """Returns the fields of `eval.json`."""
        parts = {"data": self.data, "forward": self.forward, "post": self.post}
        return {
            "images_per_second": self.images / sum(parts.values()),
            "seconds_per_image": {k: v / self.images for k, v in parts.items()},
            "compile_seconds": self.compile,
        }


class DatasetPredictions:
    """The position and the predictions of every image of a data set; iterate over them once.

    They come in the loader's order, and every host sees those of all images.

    Attributes:
        speed: of what has been done so far.
        unreadable: a line for each image that was left out, where that is allowed.
    """

    def __init__(
        self, predictor: Predictor, dataset: Dataset, skip_unreadable: bool = False
    ) -> None:
        """Compiles all programs that the data set needs, with a line for each.

        Args:
            predictor: also says the images' scale, the batch size and the loader's settings.
            dataset: with or without boxes.
            skip_unreadable: leave images out that cannot be read; else they end the iteration.
        """
        self.speed, self.unreadable = Speed(), list[str]()
        self._predictor, self._dataset, self._skip = predictor, dataset, skip_unreadable
        self._batch_size = predictor.config.proposals.batch_size * predictor.mesh.size
        before = predictor.programs.seconds
        for bucket in eval_buckets(dataset, predictor.config.data):
            if predictor.compile(self._batch_size, bucket):
                print_once(f"compiled for {bucket[0]} x {bucket[1]}")
        self.speed.compile = predictor.programs.seconds - before

    def __iter__(self) -> Iterator[tuple[int, Result]]:
        """Yields each image's predictions.

        Raises:
            InputError: an image cannot be read and may not be left out.
        """
        loader = eval_batches(
            self._dataset,
            self._predictor.config.data,
            batch_size=self._batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            skip_unreadable=self._skip,
        )
        with loader:
            # The devices work on a batch while the host loads the next and unpacks the one before.
            previous: tuple[Batch, Predictions] | None = None
            while True:
                begun = time.perf_counter()
                element = next(loader, None)
                loaded = time.perf_counter()
                current = None
                if element is not None:
                    self.unreadable += element.skipped
                    current = element.batch, self._predictor.start(element.batch)
                self.speed.data += loaded - begun
                self.speed.forward += time.perf_counter() - loaded
                if previous is not None:
                    yield from self._finish(*previous)
                if current is None:
                    return
                previous = current

    def _finish(self, batch: Batch, started: Predictions) -> Iterator[tuple[int, Result]]:
        """Waits for a batch, and yields its images (fillers left out) in original pixels."""
        begun = time.perf_counter()
        jax.block_until_ready(started)
        ready = time.perf_counter()
        predictions, index, scale = gather((started, batch.index, batch.scale))
        rows = batch._replace(index=index, scale=scale)
        found = [
            (int(place), result_of(predictions, rows, row))
            for row, place in enumerate(index)
            if place >= 0
        ]
        self.speed.forward += ready - begun
        self.speed.post += time.perf_counter() - ready
        self.speed.images += len(found)
        yield from found


def evaluate(predictor: Predictor, dataset: Dataset) -> tuple[dict[str, Any], list[Result]]:
    """Returns what `eval.json` holds, and the predictions it was measured on, by image.

    See `recall.evaluate_proposals` for the recall fields and `Speed.summary` for the others.
    """
    run = DatasetPredictions(predictor, dataset)
    results = dict(run)
    predictions = [results[i] for i in range(len(dataset))]
    truth = [dataset.ground_truth(i) for i in range(len(dataset))]
    found = [(x.boxes, x.scores) for x in predictions]
    recall = evaluate_proposals(truth, found, dataset.convention)
    return {**recall, **run.speed.summary()}, predictions
