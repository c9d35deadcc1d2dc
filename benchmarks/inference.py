"""Images per second from JPEGs on disk to boxes in their own pixels: jaxdet beside its peers.

    python -m benchmarks.inference

Loader, network and post-processing, same weights and images.  The peers are given images by
PyTorch's DataLoader with the reference's recipe (OpenCV); the network is eager PyTorch's, ONNX
Runtime's or OpenVINO's, for images of any size; NMS is torchvision's where it is installed, else
a loop in C++.  All have compiled, and the clock runs from the question to the last box, start and
end of loader processes included.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.images import write_images
from benchmarks.loader import plain_images
from benchmarks.setups import load_config, plain_model, plain_precision, random_params
from benchmarks.timing import (
    keep_freed_memory,
    median_rates,
    save,
    torch,
    torch_device,
    use_same_threads,
)
from jaxdet.config import Config
from jaxdet.data.coco import coco_paths, load_coco
from jaxdet.data.dataset import Dataset
from jaxdet.detectors.build import build_detector
from jaxdet.inference.evaluate import DatasetPredictions
from jaxdet.inference.predictor import make_predictor
from jaxdet.inference.single import Result
from jaxdet.types import Params

KINDS = ("eager", "onnxruntime", "openvino")
Found = tuple[np.ndarray, np.ndarray]  # boxes, scores


class Plain:
    """A peer, from files to boxes, an image at a time."""

    def __init__(self, kind: str, config: Config, params: Params, dataset: Dataset) -> None:
        from benchmarks import plain_rpn
        from benchmarks.nms import reference, torchvision_nms

        self.config, self.images = config, plain_images(dataset, flip=False)
        model, any_image = plain_model(config, params), torch.zeros(1, 3, 256, 320)
        torch.backends.cudnn.benchmark = False  # images have many sizes
        precision = partial(plain_precision, config)
        self.network = peers.forward(kind, model, any_image, precision, any_size=True)
        threshold = config.proposals.nms_threshold
        nms = torchvision_nms(threshold) or reference(threshold)[1]
        self.propose = plain_rpn.Proposer(config.proposals, nms)

    def __iter__(self) -> Iterator[Found]:
        from benchmarks import plain_rpn
        from benchmarks.plain_loader import plain_loader

        device = torch_device()
        loader = plain_loader(self.images, None, self.config.data.num_workers)
        for tensors, sizes, scales, _ in loader:
            outputs = [torch.as_tensor(x) for x in self.network(tensors.to(device))]
            levels = outputs[: len(outputs) // 2], outputs[len(outputs) // 2 :]
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


def ones(results: Iterable) -> Iterator[int]:
    """1 for each."""
    for _ in results:
        yield 1


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="rpn_r50_fpn_1x", help="name of a file in configs/")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    keep_freed_memory()
    use_same_threads()
    config = load_config(args.config, args.precision)
    config = replace(config, data=replace(config.data, num_workers=args.workers))
    params = random_params(config)
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_coco(*coco_paths(write_images(Path(folder), args.images), "train"))
        predictor = make_predictor(config, build_detector(config), params)
        ours = partial(DatasetPredictions, predictor, dataset)
        runs, first = {"jaxdet": lambda: ones(ours())}, dict(ours())
        for kind in peers.available(KINDS, args.precision):
            plain = Plain(kind, config, params, dataset)
            runs[kind] = partial(ones, plain)
            found = list(plain)
            if config.train.matmul_precision == "highest" and args.precision == "float32":
                check(first, found)
        row = median_rates(runs, args.rounds)
    print(", ".join(f"{name} {value:.3f}" for name, value in row.items()), "(images/s)")
    settings = {"model": args.config, "precision": args.precision, "images": args.images}
    save("inference", [{**settings, "workers": args.workers, **row}])


if __name__ == "__main__":
    main()
