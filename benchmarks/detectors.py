"""Faster R-CNN R-50-FPN as a whole: jaxdet beside torchvision's own, which must be installed.

    python -m benchmarks.detectors inference
    python -m benchmarks.detectors train_step

From JPEGs on disk to detections in their own pixels, whose clock starts when the first image is
done; and a step of training, from images and boxes in memory to updated weights.  Same weights
and images for both, and what they say must agree.  torchvision's side is the model as its recipe
trains it, with frozen batch norms, and PyTorch's DataLoader.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.init import normal_, uniform_
from torch.utils.data import DataLoader
from torchvision.io import decode_image
from torchvision.models.detection import FasterRCNN, backbone_utils
from torchvision.ops.misc import FrozenBatchNorm2d

from benchmarks.images import write_images
from benchmarks.inference import ones
from benchmarks.setups import load_config, random_batch
from benchmarks.timing import (
    compared,
    median_rates,
    paired_medians,
    save,
    shown,
    torch_device,
    use_same_threads,
)
from benchmarks.train_step import RATE, our_step
from jaxdet.config import Config
from jaxdet.configs.base import COCO_IDS
from jaxdet.data.coco import coco_paths, load_coco
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.inference.evaluate import DatasetPredictions
from jaxdet.inference.predictor import make_predictor
from jaxdet.inference.single import Result
from jaxdet.types import Batch, Params
from jaxdet.weights import layout

IDS = np.array(COCO_IDS)


def their_model() -> FasterRCNN:
    """The detector, with random weights that spread boxes and scores as trained ones do."""
    torch.manual_seed(0)
    backbone = backbone_utils.resnet_fpn_backbone(backbone_name="resnet50", weights=None)
    model = FasterRCNN(backbone, num_classes=91)
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):  # small at a block's end: sums shall not grow
            uniform_(module.weight, *((0.2, 0.25) if name.endswith("bn3") else (0.8, 1.0)))
            module.eps = 0.0  # as in the published model
    head, (fc6, fc7) = model.rpn.head, model.roi_heads.box_head.children()
    classes, deltas = model.roi_heads.box_predictor.children()
    deviations = {head.cls_logits: 0.5, head.bbox_pred: 0.5, fc6: 0.02, fc7: 0.05}
    for layer, deviation in {**deviations, classes: 0.2, deltas: 0.1}.items():
        normal_(layer.weight, 0, deviation)
        # What all rectified features have in common cancels.
        layer.weight.data -= layer.weight.data.mean(dim=1, keepdim=True)
    # jaxdet leaves out what no category of COCO has, and no trained model finds.
    classes.bias.data[np.setdiff1d(np.arange(1, 91), IDS)] = -20
    return model.to(torch_device())


def read(path: str) -> torch.Tensor:
    """An image [3, H, W] in [0, 1]."""
    return decode_image(path) / 255


def their_detections(model: FasterRCNN, paths: list[str], workers: int) -> Iterator[dict]:
    """Boxes, labels and scores of each image, in order."""
    how = {"collate_fn": read, "num_workers": workers, "multiprocessing_context": "spawn"}
    for image in DataLoader(paths, None, **how):
        with torch.inference_mode():
            (found,) = model.eval()([image.to(torch_device())])
        yield {name: x.cpu().numpy() for name, x in found.items()}


def check(ours: dict[int, Result], theirs: list[dict]) -> None:
    """Nearly all detections are the same; pairs on a threshold may differ.

    Raises:
        AssertionError: they are not, or too few to tell.
    """
    for place, found in enumerate(theirs):
        mine = ours[place]
        near = np.abs(mine.boxes[:, None] - found["boxes"][None]).max(axis=-1) < 0.02
        near &= np.abs(mine.scores[:, None] - found["scores"][None]) < 1e-4
        near &= IDS[mine.labels][:, None] == found["labels"][None]
        assert near.shape[1] > 50, f"only {near.shape[1]} detections"
        same = near.any(axis=0).mean()
        assert same > 0.98, f"only {same:.0%} of the detections are the same"


def inference(model: FasterRCNN, config: Config, params: Params, args: Any) -> dict[str, float]:
    """Seconds per image."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_coco(*coco_paths(write_images(Path(folder), args.images), "train"))
        paths = [str(dataset.path_of(i)) for i in range(args.images)]
        predictor = make_predictor(config, build_detector(config), params)
        ours = partial(DatasetPredictions, predictor, dataset)
        theirs = partial(their_detections, model, paths, config.data.num_workers)
        check(dict(ours()), list(islice(theirs(), 4)))
        runs = {"torchvision": lambda: ones(theirs()), "jaxdet": lambda: ones(ours())}
        rates = median_rates(runs, args.rounds)
        return {side: 1 / rates[side] for side in runs}


def their_step(model: FasterRCNN, config: Config, batch: Batch) -> Callable[[], float]:
    """A function that steps and returns the loss."""
    device, settings, size = torch_device(), config.optimizer, batch.image.shape[1:3]
    model.transform.min_size, model.transform.max_size = (min(size),), max(size)  # as they are
    pixels = torch.from_numpy(batch.image.transpose(0, 3, 1, 2).copy()).to(device) / 255
    boxes, labels = (torch.from_numpy(x).to(device) for x in (batch.boxes, IDS[batch.labels]))
    targets = [{"boxes": b, "labels": k} for b, k in zip(boxes, labels, strict=True)]
    trained = [p for p in model.train().parameters() if p.requires_grad]
    how = {"momentum": settings.momentum, "weight_decay": settings.weight_decay}
    optimizer = torch.optim.SGD(trained, RATE, **how)

    def step() -> float:
        optimizer.zero_grad()
        loss = sum(model(list(pixels), targets).values())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def train_step(model: FasterRCNN, config: Config, params: Params, args: Any) -> dict[str, float]:
    """Seconds per step."""
    batch = random_batch(args.size, args.images)
    labels = np.random.default_rng(0).integers(0, len(IDS), batch.box_mask.shape, np.int32)
    batch = batch._replace(image=batch.image.astype(np.float32), labels=labels)
    ours, theirs = our_step(config, params, batch)[0], their_step(model, config, batch)
    np.testing.assert_allclose(ours(), theirs(), rtol=0.05)  # each draws its own samples
    return paired_medians({"torchvision": theirs, "jaxdet": ours}, args.rounds)


MEASURES = {"inference": inference, "train_step": train_step}


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--images", type=int, help="files (24), or of a step (2)")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1088), help="of a step")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    args.images = args.images or {"inference": 24, "train_step": 2}[args.what]
    use_same_threads()
    model, config = their_model(), load_config("torchvision_faster_rcnn_r50_fpn")
    state = {name: x.cpu().numpy() for name, x in model.state_dict().items()}
    params = layout.to_params(state, param_shapes(build_detector(config)))
    row = compared(MEASURES[args.what](model, config, params, args))
    print(args.what, shown(row, "torchvision"))
    save(f"detectors-{args.what}", [{"images": args.images, **row}])


if __name__ == "__main__":
    main()
