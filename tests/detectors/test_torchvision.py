"""Beside torchvision itself: the same weights, images of ten sizes, the same results."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torchvision_weights
from reference_weights import seeded_image

from jaxdet import config as config_lib
from jaxdet.data.buckets import batch_of_one, bucket_sizes
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.inference.predictor import make_predictor
from jaxdet.inference.single import result_of
from jaxdet.weights import layout

torch = pytest.importorskip("torch")
try:
    from torchvision.models import detection
except (ImportError, RuntimeError) as error:  # absent, or of another build than PyTorch
    pytest.skip(f"torchvision cannot be imported: {error}", allow_module_level=True)

SCALE = (448, 320)
# Among them sides that are padded to an odd multiple of 32, where the fifth level's stride is not
# 64, portraits, a panorama and images that grow.
SIZES = [(480, 640), (487, 640), (203, 260), (640, 427), (300, 300), (240, 900), (900, 260),
         (333, 500), (352, 416), (120, 160)]  # fmt: skip


@functools.cache
def model_of(build: str):
    """torchvision's detector with seeded weights and spread scores."""
    torch.manual_seed(0)
    model = getattr(detection, build)(
        weights=None, weights_backbone=None, min_size=SCALE[1], max_size=SCALE[0]
    )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.3, 0.6)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, 0, 0.1)
    # So much that boxes leave the anchors' lattice, on which many pairs have an IoU of exactly 0.7.
    torch.nn.init.normal_(model.rpn.head.bbox_pred.weight, 0, 0.1)
    return model.eval()


def proposals_of(model, image: np.ndarray) -> np.ndarray:
    """Its RPN's boxes in resized pixels, best first."""
    with torch.no_grad():
        tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        images, _ = model.transform([tensor])
        boxes, _ = model.rpn(images, model.backbone(images.tensors))
    return boxes[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "name"),
    [
        ("fasterrcnn_resnet50_fpn", "torchvision_rpn_r50_fpn"),
        ("fasterrcnn_resnet50_fpn_v2", "torchvision_rpn_r50_fpn_v2"),
    ],
)
def test_the_same_proposals(build, name):
    model = model_of(build)
    config = config_lib.parse(config_lib.load_file(name))
    data = dataclasses.replace(config.data, image_scale=SCALE)
    config = dataclasses.replace(config, data=data)
    state = {key: x.numpy() for key, x in model.state_dict().items()}
    detector = build_detector(config)
    predictor = make_predictor(config, detector, layout.to_params(state, param_shapes(detector)))
    for number, (height, width) in enumerate(SIZES):
        image = np.ascontiguousarray(seeded_image(height, width, number)[..., ::-1])
        wanted = proposals_of(model, image)
        batch = batch_of_one(image, data, bucket_sizes((max(SCALE), max(SCALE))))  # one program
        found = jax.device_get(predictor.start(batch))
        boxes = found.boxes[0][found.valid[0]]
        assert abs(len(boxes) - len(wanted)) <= 2
        near = np.abs(boxes[:, None] - wanted[None]).max(-1) < 0.01
        # The rest are pairs on the threshold, or ties at the cut.
        assert near.any(axis=0).mean() >= 0.995, (height, width)
        assert near.any(axis=1).mean() >= 0.995, (height, width)


@pytest.mark.slow
@pytest.mark.parametrize("build", torchvision_weights.MODELS)
def test_the_same_detections(build, golden):
    """The weights are the goldens', whose scores are spread over many classes."""
    retinanet = build.startswith("retinanet")
    expected = golden(f"{'' if retinanet else 'detector_'}forward_{build}")
    state = torchvision_weights.detector(
        int(expected["seed"]), build, expected.get("cls_score_bias")
    )
    model = getattr(detection, build)(
        weights=None, weights_backbone=None, min_size=SCALE[1], max_size=SCALE[0]
    ).eval()
    tensors = {k: torch.from_numpy(np.asarray(x)) for k, x in state.items()}
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    kind = {"fa": "faster_rcnn", "ma": "mask_rcnn", "re": "retinanet"}[build[:2]]
    name = f"torchvision_{kind}_r50_fpn{'_v2' * build.endswith('_v2')}"
    config = config_lib.parse(config_lib.load_file(name))
    data = dataclasses.replace(config.data, image_scale=SCALE)
    config = dataclasses.replace(config, data=data)
    detector = build_detector(config)
    state = {key: x.numpy() for key, x in model.state_dict().items()}
    predictor = make_predictor(config, detector, layout.to_params(state, param_shapes(detector)))
    total = 0
    for number, size in enumerate(SIZES):
        image = np.ascontiguousarray(seeded_image(*size, number)[..., ::-1])
        with torch.no_grad():
            tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
            (wanted,) = model([tensor])
        wanted = {key: x.numpy() for key, x in wanted.items()}
        labels = torchvision_weights.contiguous(wanted["labels"])
        batch = batch_of_one(image, data, bucket_sizes((max(SCALE), max(SCALE))))  # one program
        found = result_of(jax.device_get(predictor.start(batch)), batch, config, size)
        near = np.abs(found.boxes[:, None] - wanted["boxes"][None]).max(-1) < 0.02
        near &= np.abs(found.scores[:, None] - wanted["scores"][None]) < 1e-4
        near &= found.labels[:, None] == labels[None]
        total += len(labels)
        # The rest are pairs on the threshold, or ties at the cut.
        assert abs(len(found.boxes) - len(labels)) <= 1
        assert near.any(axis=0).mean() >= 0.99, size
        if found.masks is not None:
            same = near.any(axis=0)
            ours, theirs = found.masks[near.argmax(axis=0)[same]], wanted["masks"][same, 0] > 0.5
            # Single pixels at 0.5, and a row or column where a corner lies next to a whole pixel.
            assert (ours != theirs).sum() <= 0.01 * theirs.sum()
    assert total > 300
