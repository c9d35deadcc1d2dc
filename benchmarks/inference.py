"""Images per second from JPEGs on disk to boxes in their own pixels: jaxdet beside PyTorch.

    python -m benchmarks.inference

Loader, network and post-processing, same weights and images.  PyTorch's side is its own
DataLoader with the reference's recipe, the plain network and NMS in C++ (on a GPU: torchvision).
The clock starts when the first image is done.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.images import write_images
from benchmarks.loader import median_rates, plain_images
from benchmarks.setups import (
    load_config,
    plain_model,
    plain_precision,
    random_params,
)
from benchmarks.timing import save, torch, torch_device, use_same_threads
from jaxdet.config import Config
from jaxdet.data.coco import coco_paths, load_coco
from jaxdet.data.dataset import Dataset
from jaxdet.detectors.build import build_detector
from jaxdet.inference.evaluate import DatasetPredictions
from jaxdet.inference.predictor import make_predictor
from jaxdet.inference.single import Result
from jaxdet.types import Params

Found = tuple[np.ndarray, np.ndarray]  # boxes, scores


class Plain:
    """PyTorch from files to boxes, an image at a time."""

    def __init__(self, config: Config, params: Params, dataset: Dataset) -> None:
        from benchmarks import plain_rpn
        from benchmarks.nms import reference

        self.config, self.dataset = config, dataset
        self.model = plain_model(config, params)
        torch.backends.cudnn.benchmark = False  # images have many sizes
        _, nms = reference(config.proposals.nms_threshold)
        self.propose = plain_rpn.Proposer(config.proposals, nms)

    def __iter__(self) -> Iterator[Found]:
        from benchmarks import plain_rpn
        from benchmarks.plain_loader import plain_loader

        device = torch_device()
        workers = self.config.data.num_workers
        images = plain_images(self.dataset, flip=False)
        for tensors, sizes, scales, _ in plain_loader(images, None, workers):
            with torch.inference_mode(), plain_precision(self.config):
                levels = self.model(tensors.to(device))
            height, width = tensors.shape[2:]
            anchors = plain_rpn.anchors_of((height, width), self.config.model, device)
            ((boxes, scores),) = self.propose(levels, anchors, sizes)
            yield (boxes / scales[0]).cpu().numpy(), scores.cpu().numpy()


def check(ours: dict[int, Result], theirs: list[Found]) -> None:
    """Both find the same best boxes, whose order near-ties may change.

    Raises:
        AssertionError: they do not.
    """
    for place, (_, scores) in enumerate(theirs):
        np.testing.assert_allclose(ours[place].scores[:100], scores[:100], atol=2e-3)


def ones(results: Iterator) -> Iterator[int]:
    """1 for each."""
    for _ in results:
        yield 1


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="rpn_r50_fpn_1x", help="name of a file in configs/")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    use_same_threads()
    config = load_config(args.config, args.precision)
    config = replace(config, data=replace(config.data, num_workers=args.workers))
    params = random_params(config)
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_coco(*coco_paths(write_images(Path(folder), args.images), "train"))
        predictor = make_predictor(config, build_detector(config), params)
        runs = {"jaxdet": lambda: ones(iter(DatasetPredictions(predictor, dataset)))}
        first = dict(DatasetPredictions(predictor, dataset))
        if torch is not None:
            plain = Plain(config, params, dataset)
            theirs = list(plain)
            if config.train.matmul_precision == "highest" and args.precision == "float32":
                check(first, theirs)
            runs["torch"] = lambda: ones(iter(plain))
        row = median_rates(runs, args.rounds)
    print(", ".join(f"{name} {value:.3f}" for name, value in row.items()), "(images/s)")
    settings = {"model": args.config, "precision": args.precision, "images": args.images}
    save("inference", [{**settings, "workers": args.workers, **row}])


if __name__ == "__main__":
    main()
