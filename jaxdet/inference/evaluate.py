"""Runs a model over a data set and measures its recall and speed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdet.config import Config
from jaxdet.data.buckets import Size
from jaxdet.data.dataset import Dataset
from jaxdet.data.pipeline import eval_batches, eval_buckets
from jaxdet.devices import gather
from jaxdet.hosts import say
from jaxdet.inference.proposer import Proposer, Started
from jaxdet.inference.recall import evaluate_proposals
from jaxdet.types import Batch, Proposals


class ImageProposals(NamedTuple):
    """One image's proposals in its own (original) pixels, best first."""

    boxes: np.ndarray  # float32 [n, 4]
    scores: np.ndarray  # float32 [n]


@dataclass
class Speed:
    """Seconds in which the host waited, summed over images; compiling is apart from the rest.

    Loading, network and post-processing run at the same time, so each counts where the others do
    not hide it: `data` is the wait for the loader, `forward` the rest of the wait for the
    network, `post` what comes after it.
    """

    data: float = 0.0
    forward: float = 0.0
    post: float = 0.0
    compile: float = 0.0
    images: int = 0

    def summary(self) -> dict[str, Any]:
        """The fields of `eval.json`."""
        parts = {"data": self.data, "forward": self.forward, "post": self.post}
        return {
            "images_per_second": self.images / sum(parts.values()),
            "seconds_per_image": {k: v / self.images for k, v in parts.items()},
            "compile_seconds": self.compile,
        }


def propose_each(
    proposer: Proposer,
    dataset: Dataset,
    config: Config,
    speed: Speed,
    unreadable: list[str] | None = None,
) -> Iterator[tuple[int, ImageProposals]]:
    """Proposals of every image of a data set and its place there, in the loader's order.

    Every host sees the images of all.

    Args:
        proposer: the model.
        dataset: with or without boxes.
        config: for image scale, batch size and loader.
        speed: is added to.
        unreadable: gets a line for each image that is left out, where that is allowed.

    Raises:
        InputError: an image cannot be read and may not be left out.
    """
    batch_size = config.proposals.batch_size * proposer.num_devices
    _compile_ahead(proposer, eval_buckets(dataset, config.data.image_scale), batch_size, speed)
    loader = eval_batches(
        dataset,
        image_scale=config.data.image_scale,
        batch_size=batch_size,
        num_workers=config.data.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        skip_unreadable=unreadable is not None,
    )
    with loader as batches:
        # The devices work on a batch while the host loads the next and unpacks the one before.
        previous: tuple[Batch, Started] | None = None
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            loaded = time.perf_counter()
            if unreadable is not None and batch is not None:
                unreadable += batches.messages
            current = None if batch is None else (batch, proposer.start(batch))
            speed.data += loaded - asked
            speed.forward += time.perf_counter() - loaded
            if previous is not None:
                yield from _finish(*previous, speed)
            if current is None:
                return
            previous = current


def _compile_ahead(proposer: Proposer, buckets: list[Size], batch_size: int, speed: Speed) -> None:
    """Compiles all programs that a data set needs, with a line for each."""
    for number, (height, width) in enumerate(buckets, 1):
        begun = time.perf_counter()
        if proposer.prepare(batch_size, (height, width)):
            seconds = time.perf_counter() - begun
            speed.compile += seconds
            say(f"compiled for {height} x {width} ({number} of {len(buckets)}): {seconds:.1f} s")


def _finish(batch: Batch, started: Started, speed: Speed) -> Iterator[tuple[int, ImageProposals]]:
    """Waits for a batch; gives its images."""
    begun = time.perf_counter()
    jax.block_until_ready(started.outputs)
    forward = time.perf_counter()
    found = list(_unbatch(batch, gather(started.proposals)))
    speed.forward += forward - begun
    speed.post += time.perf_counter() - forward
    speed.images += len(found)
    yield from found


def evaluate(
    proposer: Proposer, dataset: Dataset, config: Config
) -> tuple[dict[str, Any], list[ImageProposals]]:
    """What `eval.json` holds, and the proposals it was measured on, in the data set's order.

    See `metrics.evaluate_proposals` for the recall fields and `Speed.summary` for the others.
    """
    speed = Speed()
    found = dict(propose_each(proposer, dataset, config, speed))
    proposals = [found[i] for i in range(len(dataset))]
    truth = [dataset.ground_truth(i) for i in range(len(dataset))]
    recall = evaluate_proposals(truth, [(x.boxes, x.scores) for x in proposals])
    return {**recall, **speed.summary()}, proposals


def _unbatch(batch: Batch, proposals: Proposals) -> Iterator[tuple[int, ImageProposals]]:
    """The images of a batch (filler left out), back in original pixels."""
    index, scale = gather((batch.index, batch.scale))
    for row, place in enumerate(index):
        if place >= 0:
            valid = proposals.valid[row]
            boxes = proposals.boxes[row][valid] / scale[row]
            yield int(place), ImageProposals(boxes, proposals.scores[row][valid])
