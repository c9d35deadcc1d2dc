"""Runs a model over a data set and measures its recall and speed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdet.config import Config
from jaxdet.data.dataset import Dataset
from jaxdet.data.pipeline import eval_batches
from jaxdet.devices import gather
from jaxdet.metrics import evaluate_proposals
from jaxdet.proposer import Proposer
from jaxdet.types import Batch, Proposals


class ImageProposals(NamedTuple):
    """One picture's proposals in its own (original) pixels, best first."""

    boxes: np.ndarray  # float32 [n, 4]
    scores: np.ndarray  # float32 [n]


@dataclass
class Speed:
    """Seconds summed over pictures; compiling is apart from the rest."""

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
    proposer: Proposer, dataset: Dataset, config: Config, speed: Speed
) -> Iterator[tuple[int, ImageProposals]]:
    """Proposals of every picture of a data set and its place there, in the loader's order.

    Every host sees the pictures of all.

    Args:
        proposer: the model.
        dataset: with or without boxes.
        config: for image scale, batch size and loader.
        speed: is added to.
    """
    loader = eval_batches(
        dataset,
        image_scale=config.data.image_scale,
        batch_size=config.test.batch_size * proposer.num_devices,
        num_workers=config.data.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with loader as batches:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            speed.data += time.perf_counter() - start
            if batch is None:
                return
            proposals, seconds = proposer(batch)
            speed.compile += seconds.compile
            speed.forward += seconds.forward
            speed.post += seconds.post
            for place, found in _unbatch(batch, proposals):
                speed.images += 1
                yield place, found


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
    """The pictures of a batch (filler left out), back in original pixels."""
    index, scale = gather((batch.index, batch.scale))
    for row, place in enumerate(index):
        if place >= 0:
            valid = proposals.valid[row]
            boxes = proposals.boxes[row][valid] / scale[row]
            yield int(place), ImageProposals(boxes, proposals.scores[row][valid])
