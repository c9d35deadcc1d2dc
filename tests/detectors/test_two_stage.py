"""Faster, Mask and Fast R-CNN of every system: our numbers beside their own.

`golden/detector_*` were made by running mmdet 0.6.0 and 3.3.0, detectron2 at 02b5c4e and
torchvision 0.29.1 on the weights, images, masks and proposals that the modules beside this folder
rebuild.  The weights come in the systems' own key layouts, so that their reading is part of each
test.  Compiling R-50 takes most of the time.
"""

import dataclasses
import functools
import re
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_detectors
import reference_weights
import today_weights
import torchvision_weights
from flax import traverse_util
from pycocotools import mask as coco_mask
from zoo_cases import make_batch

from jaxdet import config as config_lib
from jaxdet.config import Config, RoIConfig
from jaxdet.configs import base
from jaxdet.data.buckets import batch_of_one
from jaxdet.data.image import padded_size, resize, resized_size
from jaxdet.data.masks import resize_bitmap
from jaxdet.detectors import rpn
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.detectors.faster_rcnn import (
    FirstStage,
    build_heads,
    given_stage,
    rpn_stage,
    two_stage,
    without_masks,
)
from jaxdet.detectors.mask_rcnn import with_masks
from jaxdet.detectors.rois import sample_rois
from jaxdet.detectors.rpn import make_targets
from jaxdet.inference.single import paste_masks
from jaxdet.models.mask_head import MaskHead
from jaxdet.models.params import apply, merge_params, split_params
from jaxdet.ops.boxes import CONVENTIONS, clip
from jaxdet.types import Detector
from jaxdet.weights import layout
from jaxdet.weights.spelling import TORCHVISION_2
from jaxdet.weights.systems import system_of

# detectron2 draws polygons at 28 x 28 where we resample bitmaps: 1.6 % of the pixels differ.
POLYGONS = 0.03
DETECTRON2_MASKS = tuple(
    f"roi_heads.mask_head.{layer}"
    for layer in ("mask_fcn1", "mask_fcn2", "mask_fcn3", "mask_fcn4", "deconv", "predictor")
)
EVERY = 1_000_000  # samples: all of them
# Its masks were drawn from the features of the first 100 proposals, each with the class of the
# detection of the same rank: numbers of the head, but not of detections.
C4_MASKS = "mask_rcnn_r50_caffe_c4"


class Case(NamedTuple):
    kind: str
    convention: str = "mmdet1"
    row: dict = {}  # noqa: RUF012
    arch: dict = {}  # noqa: RUF012 - of the function that makes the weights


CAFFE_C4 = {"neck": "c4", "style": "caffe"}
X101 = {"depth": 101, "groups": 32, "base_width": 4}
CASES = {
    "faster_rcnn_r50_fpn": Case("faster_rcnn"),
    "faster_rcnn_r50_caffe_fpn": Case("faster_rcnn", row={"style": "caffe"}),
    "faster_rcnn_r50_caffe_c4": Case("faster_rcnn", row=CAFFE_C4, arch={"c4": True}),
    "faster_rcnn_x101_32x4d_fpn": Case("faster_rcnn", row=X101, arch=X101),
    "mask_rcnn_r50_fpn": Case("mask_rcnn"),
    "mask_rcnn_r50_caffe_c4": Case("mask_rcnn", row=CAFFE_C4, arch={"c4": True}),
    "fast_rcnn_r50_fpn": Case("fast_rcnn"),
    "fast_mask_rcnn_r50_fpn": Case("fast_mask_rcnn"),
    "mmdet3_faster_rcnn_fpn": Case("faster_rcnn", "mmdet3"),
    "mmdet3_faster_rcnn_caffe_c4": Case("faster_rcnn", "mmdet3", CAFFE_C4, {"c4": True}),
    "mmdet3_mask_rcnn_fpn": Case("mask_rcnn", "mmdet3"),
    "detectron2_faster_rcnn_fpn": Case("faster_rcnn", "detectron2", {"style": "caffe"}),
    "detectron2_faster_rcnn_c4": Case("faster_rcnn", "detectron2", CAFFE_C4, {"c4": True}),
    "detectron2_mask_rcnn_fpn": Case("mask_rcnn", "detectron2", {"style": "caffe"}),
    "fasterrcnn_resnet50_fpn": Case("faster_rcnn", "torchvision"),
    "fasterrcnn_resnet50_fpn_v2": Case("faster_rcnn", "torchvision_v2"),
    "maskrcnn_resnet50_fpn": Case("mask_rcnn", "torchvision"),
    "maskrcnn_resnet50_fpn_v2": Case("mask_rcnn", "torchvision_v2"),
}
TRAINED = [x for x in CASES if "x101" not in x and x != "faster_rcnn_r50_caffe_fpn"]


def config_of(case: str, expected) -> Config:
    """The system's config at the golden's image scale and counts."""
    kind, convention, row, _ = CASES[case]
    row = {"depth": 50, "pretrained": "", "convention": convention} | row
    config = base.detector(kind, case, **row)
    config.data.train_short_sides = ()
    if "scale" in expected:
        config.data.image_scale = tuple(map(int, expected["scale"]))
    else:
        config.data.image_scale = int(expected["max_size"]), int(expected["min_size"])
    for name in ("rpn_max_num", "rpn_proposal_max_num", "rpn_post_nms_top_n_train"):
        if name in expected:
            for part in (config.proposals, config.rois):
                part.max_num = part.nms_post = int(expected[name])
    if "rpn_pre_nms_top_n_test" in expected:
        config.proposals.nms_pre = config.proposals.nms_post = int(
            expected["rpn_pre_nms_top_n_test"]
        )
    if "rpn_pre_nms_top_n_train" in expected:
        config.rois.nms_pre = int(expected["rpn_pre_nms_top_n_train"])
    return config_lib.parse(config)


def state_of(case: str, expected) -> dict[str, np.ndarray]:
    """The system's checkpoint."""
    kind, convention, row, arch = CASES[case]
    seed = int(expected.get("seed", 0))
    if convention.startswith("torchvision"):
        bias = expected["cls_score_bias"]
        return torchvision_weights.detector(seed, str(expected["model"]), bias)
    if convention == "mmdet1":
        std = 57.0 if row.get("style") == "caffe" else 1.0
        state = reference_detectors.seeded_detector(seed, std, kind=kind, **arch)
        scores = "bbox_head.fc_cls"
    else:
        make = today_weights.mmdet if convention == "mmdet3" else today_weights.detectron2
        state = make(seed, kind, **arch)
        names = {"mmdet3": "bbox_head.fc_cls", "detectron2": "box_predictor.cls_score"}
        scores = f"roi_head{'s' * (convention == 'detectron2')}.{names[convention]}"
    if "fc_cls_bias" in expected:
        state[f"{scores}.weight"] = state[f"{scores}.weight"] * expected["fc_cls_scale"]
        state[f"{scores}.bias"] = expected["fc_cls_bias"]
    return {k: np.asarray(v, np.float32) if v.dtype == np.float64 else v for k, v in state.items()}


def params_of(config: Config, state, expected):
    eps = float(expected["bn_eps"]) if "bn_eps" in expected else 0.0
    shapes = param_shapes(build_detector(config))
    return layout.to_params(state, shapes, bn_eps=eps)


def background_last(case: str, outputs, per_output: int = 1):
    """Our outputs in the order of mmdet 3 and detectron2, which have no deltas of it."""
    if CASES[case].convention not in ("mmdet3", "detectron2"):
        return outputs
    rest = outputs[:, per_output:]
    return np.concatenate([rest, outputs[:, :1]], 1) if per_output == 1 else rest


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_detections_are_the_systems(case, golden):
    expected = golden(f"detector_forward_{case}")
    config = config_of(case, expected)
    params, run = params_of(config, state_of(case, expected), expected), forward(config)
    prefixes = ["img0_", "img1_"] if "img0_source_hw" in expected else [""]
    pads = np.max([expected[f"{prefix}pad_shape"] for prefix in prefixes], axis=0)
    bucket = padded_size((int(pads[0]), int(pads[1])))  # of both, so that one program serves
    for prefix in prefixes:
        own = {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}
        batch = batch_of(config, own, int(own.get("image_seed", own.get("seed", 0))), bucket)
        np.testing.assert_array_equal(batch.image_size[0], own["img_shape"])
        found = jax.tree.map(np.asarray, run(params, batch.images))
        check_second_stage(case, found, own)
        if case == C4_MASKS:
            row, y, x = np.unravel_index(own["mask_prob_idx"], tuple(own["mask_prob_shape"]))
            logits = found["masks"][row, y, x, own["labels"][row] + 1]
            np.testing.assert_allclose(1 / (1 + np.exp(-logits)), own["mask_prob_val"], atol=1e-4)
        check_detections(case, found["detections"], batch, own)


def batch_of(config: Config, expected, seed: int, bucket):
    height, width = map(int, expected["source_hw"])
    image = reference_weights.seeded_image(height, width, seed)[..., ::-1]
    batch = batch_of_one(np.ascontiguousarray(image), config.data, [bucket])
    if "source_proposals" not in expected:
        return batch
    boxes = expected["source_proposals"][None, :, :4] * np.tile(batch.scale[0], 2)
    boxes = clip(boxes, batch.image_size[0].astype(np.float32), CONVENTIONS["mmdet1"])
    return batch._replace(proposals=boxes, proposal_mask=np.ones(boxes.shape[:2], bool))


def stages_of(config: Config):
    first = given_stage if config.model.detector.startswith("fast_") else rpn_stage
    return first(config), two_stage(config, first(config))


def detector_over(config: Config, first: FirstStage) -> Detector:
    """The detector over a first stage that may have run already."""
    finish = with_masks if "mask" in config.model.detector else without_masks
    return finish(two_stage(config, first), config)


def forward(config: Config):
    """Everything that a golden has numbers of, as one program."""
    first, stages = stages_of(config)
    head = build_heads(config.model, config.train)[1]

    def run(params, images):
        proposed = first.test(params, images)
        detector = detector_over(config, first._replace(test=lambda *_: proposed))
        x = stages.read(params, proposed.levels, proposed.boxes, images.pad_size, 7)
        logits, deltas = head.apply({"params": params["bbox_head"]}, x)
        if config.model.detector == "mask_rcnn" and not config.model.fpn_channels:
            masks = apply(MaskHead(config.model, 81, jnp.dtype("float32")), params["mask_head"], x)
        else:
            masks = None
        return {
            "masks": masks,
            "proposals": proposed.boxes[0],
            "valid": proposed.valid[0],
            "features": x,
            "cls_score": logits,
            "bbox_pred": deltas,
            "detections": detector.predict(params, images),
        }

    return jax.jit(run)


def check_second_stage(case: str, found, expected) -> None:
    valid = found["valid"]
    # Scores of 1.5e-7 apart swap at a level's cut on some processors, and NMS then keeps another.
    assert abs(valid.sum() - expected.get("num_proposals", valid.sum())) <= 2
    rows = valid.nonzero()[0]
    if "proposals" in expected:
        wanted, own = expected["proposals"][:, :4], found["proposals"][valid]
        near = np.abs(own[:, None] - wanted[None]).max(axis=2) < 0.01
        assert near.any(axis=0).mean() >= 0.995
        # Nearly equal scores swap places; rows that the golden has no box of are not compared.
        rows = np.where(near.any(axis=0), rows[near.argmax(axis=0)], -1)
    maps = np.moveaxis(found["features"], -1, 1)
    same_rows(maps, rows, expected, "shared" if "c4" in case else "roi_feats")
    same_rows(background_last(case, found["cls_score"]), rows, expected, "cls_score")
    same_rows(background_last(case, found["bbox_pred"], 4), rows, expected, "bbox_pred")


def same_rows(found, rows, expected, name: str) -> None:
    """Compares the golden's picks whose RoI is one of ours: row `rows[i]` is its RoI `i`."""
    roi, *rest = np.unravel_index(expected[f"{name}_idx"], tuple(expected[f"{name}_shape"]))
    known = (roi < len(rows)) & (rows[np.minimum(roi, len(rows) - 1)] >= 0)
    picked = found[(rows[roi[known]], *(x[known] for x in rest))]
    error = np.abs(picked - expected[f"{name}_val"][known]).max() / expected[f"{name}_std"]
    assert known.sum() > 20
    assert error < 1e-4, (name, error)


def check_detections(case: str, found, batch, expected) -> None:
    valid = found.valid[0]
    wanted, labels = expected["dets"], expected.get("labels_contiguous", expected["labels"])
    assert valid.sum() == len(wanted)
    original = np.asarray(expected["source_hw"])[::-1] / batch.image_size[0][::-1]
    nominal = np.repeat(1 / batch.scale[0], 1)
    factor = np.tile(nominal if "scale_factor" in expected else original, 2)
    boxes = found.boxes[0][valid] * factor.astype(np.float32)
    near = np.abs(boxes[:, None] - wanted[None, :, :4]).max(-1) < 0.02
    near &= np.abs(found.scores[0][valid][:, None] - wanted[None, :, 4]) < 1e-4
    near &= found.labels[0][valid][:, None] == labels[None]
    # The rest were swapped at the cut.
    assert near.any(axis=0).mean() >= 0.99
    if "mask_prob_idx" in expected and case != C4_MASKS:
        row_of = np.where(near.any(axis=0), near.argmax(axis=0), -1)
        check_masks(case, found.masks[0][valid], boxes, row_of, expected)


def check_masks(case: str, masks, boxes, row_of, expected) -> None:
    """`row_of` is our row of each of the system's detections, or -1."""
    place = np.unravel_index(expected["mask_prob_idx"], tuple(expected["mask_prob_shape"]))
    rows = row_of[place[0]]
    error = np.abs(masks[rows, place[1], place[2]] - expected["mask_prob_val"])[rows >= 0]
    # A probability moves by a quarter of what its logit does.
    assert error.max() < 1e-4
    size = tuple(map(int, expected["source_hw"]))
    kind = base.detector(*CASES[case][:1], case, depth=50, convention=CASES[case].convention)
    pasted = paste_masks(masks, boxes, size, kind.detections.mask_paste)[row_of]
    areas = pasted.sum(axis=(1, 2))[row_of >= 0]
    wanted = expected["mask_areas"][row_of >= 0]
    # A row or column may flip where a corner lies next to a whole pixel, and single pixels at 0.5.
    assert (np.abs(areas - wanted) <= np.maximum(0.01 * wanted, 2)).mean() >= 0.97
    name = next(k for k in expected if k.startswith("masks") and k.endswith("_packed"))
    count = int(name.removeprefix("masks").removesuffix("_packed"))
    bits = np.unpackbits(expected[name])[: count * size[0] * size[1]].reshape(count, *size)
    differ = (pasted[:count] != bits.astype(bool)).sum(axis=(1, 2))
    assert (differ <= np.maximum(0.01 * bits.sum(axis=(1, 2)), 2))[row_of[:count] >= 0].all(), (
        differ
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAINED)
def test_losses_and_gradients_are_the_systems(case, golden, monkeypatch):
    expected = golden(f"detector_train_{case}")
    config = config_of(case, expected)
    quota = config.targets.num_samples
    config = dataclasses.replace(
        config,
        targets=dataclasses.replace(config.targets, num_samples=EVERY),
        rois=every_roi(case, config.rois, expected),
    )
    batch = jax.tree.map(jnp.asarray, training_batch(case, config, expected))
    pads = batch.pad_size
    if CASES[case].convention == "mmdet3":  # whose anchors stand on each image's own padding
        pads = jnp.array([padded_size(tuple(map(int, expected[f"img_shape{j}"]))) for j in (0, 1)])
    first, _ = stages_of(config)
    state = state_of(case, expected)
    trainable, frozen = split_params(
        params_of(config, state, expected), build_detector(config).trainable
    )

    def loss(trainable, frozen, batch, pads):  # none a constant, which XLA would fold slowly
        own = batch._replace(pad_size=pads)
        monkeypatch.setattr(rpn, "make_targets", lambda _, *x: make_targets(own, *x))
        params = merge_params(trainable, frozen)
        proposed = first.train(params, batch)
        detector = detector_over(config, first._replace(train=lambda *_: proposed))
        losses, numbers = detector.loss(params, batch)
        if CASES[case].convention == "detectron2":  # whose normaliser is the quota's
            factor = EVERY / quota
            losses = {k: v * factor if "rpn" in k else v for k, v in losses.items()}
        found = proposed[0]
        rois = sample_rois(batch, found.boxes, found.valid, config.model, config.rois)
        return sum(losses.values()), (losses, numbers, rois)

    run = jax.jit(jax.grad(loss, has_aux=True))
    gradient, (losses, numbers, rois) = run(trainable, frozen, batch, pads)
    check_rois(case, rois, expected)
    check_losses(losses, numbers, expected)
    check_gradient(case, state, gradient, expected)


def every_roi(case: str, rois: RoIConfig, expected) -> RoIConfig:
    """Room for an image's proposals and boxes and for one positive too many, and no more.

    Each is computed: those of no image would take most of the time and of 10 GB.
    """

    def longest(name: str) -> int:
        return max(len(v) for k, v in expected.items() if re.fullmatch(name, k))

    count = longest(r"proposals\d") if CASES[case].kind.startswith("fast_") else rois.max_num
    count += longest(r"gt\d")
    fraction = (longest(r"pos_(assigned_|box)\d") + 1.5) / count
    return dataclasses.replace(rois, num_samples=count, positive_fraction=fraction)


NAMES = {
    "loss_rpn_cls": ("loss_rpn_cls", "loss_objectness"),
    "loss_rpn_bbox": ("loss_rpn_bbox", "loss_rpn_loc", "loss_rpn_box_reg"),
    "loss_cls": ("loss_cls", "loss_classifier"),
    "loss_bbox": ("loss_bbox", "loss_box_reg"),
    "loss_mask": ("loss_mask",),
}


def check_losses(losses, numbers, expected) -> None:
    for name, found in losses.items():
        (wanted,) = [expected[x] for x in NAMES[name] if x in expected]
        # Ten thousands of float32 terms, in another order.
        polygons = name == "loss_mask" and "loss_rpn_loc" in expected
        rtol = POLYGONS if polygons else 1e-5
        np.testing.assert_allclose(found, wanted.sum(), rtol=rtol, atol=1e-9, err_msg=name)
    if "acc" in expected:
        np.testing.assert_allclose(100 * numbers["accuracy"], expected["acc"], rtol=1e-5)


def check_rois(case: str, rois, expected) -> None:
    for j in range(2):
        positive = np.asarray(rois.positive[j])
        one = "num_pos" in expected and np.size(expected["num_pos"]) == 1
        if not one:
            key = f"pos_inds_{j}" if f"pos_inds_{j}" in expected else f"pos_idx{j}"
            assert positive.sum() == len(expected[key])
        name = f"pos_assigned_{j}" if f"pos_assigned_{j}" in expected else f"pos_box{j}"
        found = np.asarray(rois.matched[j])[positive]
        np.testing.assert_array_equal(found, expected[name])


def training_batch(case: str, config: Config, expected):
    convention = CASES[case].convention
    images, boxes, labels, masks, proposals = [], [], [], [], []
    seed = int(expected["seed"])
    bucket = tuple(map(int, expected["batch_hw"]))
    for j in range(2):
        height, width = map(int, expected["source_hw"][j])
        image = reference_weights.seeded_image(height, width, seed + j)[..., ::-1]
        size, _ = resized_size((height, width), config.data)
        assert size == tuple(expected[f"img_shape{j}"])
        images.append(resize(np.ascontiguousarray(image), size, config.data.resize))
        boxes.append(expected[f"gt{j}"])
        own = expected[f"labels{j}"]
        if convention.startswith("torchvision"):
            own = torchvision_weights.contiguous(own)
        labels.append(own - 1 if convention == "mmdet1" else own)
        if "mask" in config.model.detector:
            masks.append(bitmaps(convention, expected, j, (height, width), size))
        if config.model.detector.startswith("fast_"):
            proposals.append(expected[f"proposals{j}"][:, :4])
    stride = config.model.strides[0] if config.data.pad_multiple == 1 else 32
    room = padded_size(bucket, stride)
    batch = make_batch(images, room, [bucket] * 2, boxes)
    pad = functools.partial(padded, count=batch.boxes.shape[1])
    batch = batch._replace(labels=np.stack([pad(x.astype(np.int32)) for x in labels]))
    if masks:
        batch = batch._replace(masks=np.stack([pad(packed(x, room)) for x in masks]))
    if proposals:
        most = max(map(len, proposals))
        batch = batch._replace(
            proposals=np.stack([padded(x, most) for x in proposals]),
            proposal_mask=np.stack([padded(np.ones(len(x), bool), most) for x in proposals]),
        )
    return batch


def padded(x: np.ndarray, count: int) -> np.ndarray:
    return np.pad(x, [(0, count - len(x)), *[(0, 0)] * (x.ndim - 1)])


def packed(masks: np.ndarray, room) -> np.ndarray:
    canvas = np.zeros((len(masks), room[0], -(-room[1] // 32) * 32), np.uint8)
    canvas[:, : masks.shape[1], : masks.shape[2]] = masks
    return np.packbits(canvas, axis=-1)


def bitmaps(convention: str, expected, j: int, source, size) -> np.ndarray:
    """Masks of the resized image, as each system makes them."""
    if convention == "mmdet1":
        return reference_detectors.seeded_masks(expected[f"gt{j}"], *expected[f"pad_shape{j}"])
    original = expected[f"boxes_original{j}"]
    if convention.startswith("torchvision"):
        masks = torchvision_weights.masks(original, *source)
    else:
        polygons = today_weights.seeded_polygons(original)
        runs = [coco_mask.merge(coco_mask.frPyObjects([p.tolist()], *source)) for p in polygons]
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            masks = [coco_mask.decode(run) for run in runs]
    kind = "float" if convention.startswith("torchvision") else "opencv"
    return np.stack([resize_bitmap(m, size, kind) for m in masks])


def check_gradient(case: str, state, gradient, expected) -> None:
    spell = system_of(state).spell
    flat = traverse_util.flatten_dict(gradient)
    found = {spell(layout.torch_name(path)): np.linalg.norm(x) for path, x in flat.items()}
    names = expected["trainable"] if "trainable" in expected else expected["grad_names"]
    wanted = {
        re.sub(r"^roi_head\.|(?<=backbone\.)bottom_up\.", "", str(name)): norm
        for name, norm in zip(names, expected["grad_norms"], strict=True)
    }
    if CASES[case].convention == "torchvision_v2":  # norms of pyramid and heads are folded here
        folded = re.compile(r"\.fpn\.|_head\.[0-3]\.|rpn\.head\.conv")
        found, wanted = (
            {TORCHVISION_2(name): norm for name, norm in norms.items() if not folded.search(name)}
            for norms in (found, wanted)
        )
    assert set(found) == set(wanted)
    for name, norm in wanted.items():
        rtol = POLYGONS if name.startswith(DETECTRON2_MASKS) else 1e-3
        np.testing.assert_allclose(found[name], norm, rtol=rtol, atol=1e-7, err_msg=name)
