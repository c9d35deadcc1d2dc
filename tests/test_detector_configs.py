"""Every detector's config: what it says of itself, and that its values are the systems' own."""

import dataclasses
import importlib
import re

import pytest
from flax.traverse_util import flatten_dict
from zoo_cases import CONFIGS

from jaxdet import config as config_lib
from jaxdet.config import Config
from jaxdet.zoo.published import DETECTORS, PRETRAINED, Row

each_row = pytest.mark.parametrize("row", DETECTORS, ids=lambda row: row.config)
KIND = re.compile(r"(fast_mask|fast|faster|mask)_rcnn|retinanet")
RGB = {
    "model.channel_order": "rgb",
    "model.pixel_mean": (123.675, 116.28, 103.53),
    "model.pixel_std": (58.395, 57.12, 57.375),
}
BGR = {"model.channel_order": "bgr", "model.pixel_mean": (103.53, 116.28, 123.675)}
ONE = {"model.pixel_std": (1.0, 1.0, 1.0)}
DETECTRON2_STEPS = {1: (90_000, 60_000, 80_000), 3: (270_000, 210_000, 250_000)}


def steps(schedule: int) -> dict:
    """A schedule of detectron2, in epochs of COCO's 117,266 usable images and batches of 16."""
    total, *decays = DETECTRON2_STEPS[schedule]
    epochs = tuple(step / 7330 for step in decays)
    return {"train.num_steps": total, "optimizer.decay_epochs": epochs}


def proposals(test: int, in_all: int, train: int, train_in_all: int) -> dict:
    """Anchors before NMS per level and proposals after it in all, in inference and training."""
    return {
        **{"proposals.nms_pre": test, "proposals.nms_post": 1000, "proposals.max_num": in_all},
        **{"rois.nms_pre": train, "rois.max_num": train_in_all},
    }


# What the documents' tables say, by words that describe a config; all that fit must hold.
FACTS: dict[str, dict] = {
    "": {
        **{"data.image_scale": (1333, 800), "data.flip": 0.5, "model.frozen_stages": 1},
        **{"optimizer.momentum": 0.9, "optimizer.weight_decay": 1e-4},
        **{"detections.score_threshold": 0.05, "detections.nms_threshold": 0.5},
        **{"optimizer.scale_lr": True, "optimizer.decay_factor": 0.1},
    },
    # images, schedule
    "mmdet1": {"optimizer.clip_norm": 35, "optimizer.warmup_ratio": 1 / 3, "data.resize": "opencv"},
    "mmdet2": {"optimizer.clip_norm": 0, "optimizer.warmup_ratio": 1e-3, "data.resize": "opencv"},
    "mmdet": {"optimizer.warmup_steps": 500, "data.train_short_sides": ()},
    "detectron2": {
        **{"optimizer.clip_norm": 0, "optimizer.warmup_ratio": 1e-3},
        **{"optimizer.warmup_steps": 1000, "data.resize": "pillow"},
        "data.train_short_sides": (640, 672, 704, 736, 768, 800),
    },
    "torchvision": {
        **{"optimizer.clip_norm": 0, "data.resize": "float", "train.num_epochs": 26},
        **{"optimizer.decay_epochs": (16, 22), "model.class_outputs": "coco_ids"},
        **{"optimizer.warmup_steps": 1000, "optimizer.warmup_ratio": 1e-3},
    },
    "mmdet 1x": {"train.num_epochs": 12, "train.num_steps": 0, "optimizer.decay_epochs": (8, 11)},
    "mmdet 2x": {"train.num_epochs": 24, "train.num_steps": 0, "optimizer.decay_epochs": (16, 22)},
    "detectron2 1x": steps(1),
    "detectron2 3x": steps(3),
    "mmdet1 c4": {"data.images_per_device": 1, "data.pad_multiple": 32},
    "mmdet2 c4": {"data.images_per_device": 2, "data.pad_multiple": 32},
    "detectron2 c4": {"data.images_per_device": 2, "data.pad_multiple": 1},
    "fpn": {"data.images_per_device": 2, "data.pad_multiple": 32},
    # backbones
    "mmdet pytorch": {**RGB, "model.train_norm": True},
    "torchvision pytorch": RGB,
    "torchvision v1": {"model.train_norm": False},
    "torchvision v2": {"model.train_norm": True},
    "mmdet1 caffe": {
        **BGR,
        **ONE,
        "model.pixel_mean": (102.9801, 115.9465, 122.7717),
        "model.train_norm": False,
    },
    "mmdet2 caffe": {**BGR, **ONE, "model.train_norm": False},
    "detectron2 caffe": {**BGR, **ONE, "model.train_norm": False},
    "detectron2 pytorch": {
        **{**BGR, "model.pixel_std": (57.375, 57.12, 58.395), "model.train_norm": False},
        **{"model.groups": 32, "model.base_width": 8},
    },
    # proposals and RoIs
    "mmdet1 two fpn": proposals(1000, 1000, 2000, 2000),
    "mmdet2 two fpn": proposals(1000, 1000, 2000, 1000),
    "detectron2 two fpn": proposals(1000, 1000, 2000, 1000),
    "torchvision two fpn": proposals(1000, 1000, 2000, 2000),
    "two": {
        **{"rois.positive_iou": 0.5, "rois.num_samples": 512, "rois.positive_fraction": 0.25},
        **{"proposals.nms_threshold": 0.7, "targets.num_samples": 256, "rois.max_given": 1000},
        **{"targets.positive_iou": 0.7, "targets.negative_iou": 0.3},
        # The rate is for 16 images: 0.01 for C4's 8 of 2018.
        **{"detections.max_num": 100, "optimizer.learning_rate": 0.02},
    },
    "mmdet1 two": {
        **{"rois.aligned": False, "rois.points": 2, "rois.min_side": 0, "rois.level_rule": "mmdet"},
        **{"rois.low_quality": True, "rois.match_truth": False, "rois.smooth_l1_beta": 1},
        **{"rois.mask_target": "crop", "detections.mask_paste": "whole"},
        **{"detections.class_shift": "never", "detections.nms_pixels": "original"},
        **{"detections.drop_empty": False, "targets.smooth_l1_beta": 1 / 9},
        "targets.loss_count": "at_least_one",
    },
    "mmdet2 two": {
        **{"rois.aligned": True, "rois.points": 0, "rois.level_rule": "mmdet"},
        **{"rois.match_truth": False, "rois.smooth_l1_beta": 0, "rois.mask_target": "binary"},
        **{"detections.mask_paste": "centres", "detections.class_shift": "always"},
        **{"detections.nms_pixels": "original", "detections.drop_empty": False},
        **{"targets.smooth_l1_beta": 0, "proposals.level_shift": True},
    },
    "mmdet2 faster": {"rois.low_quality": False},
    "mmdet2 mask": {"rois.low_quality": True},
    "detectron2 two": {
        **{"rois.aligned": True, "rois.points": 0, "rois.level_rule": "detectron2"},
        **{"rois.match_truth": True, "rois.low_quality": False, "rois.smooth_l1_beta": 0},
        **{"detections.mask_paste": "centres", "detections.class_shift": "few"},
        **{"detections.nms_pixels": "resized", "detections.drop_empty": True},
        **{"targets.smooth_l1_beta": 0, "targets.loss_count": "quota"},
    },
    "torchvision two": {
        **{"rois.aligned": False, "rois.points": 2, "rois.min_side": 1},
        **{"rois.level_rule": "torchvision", "rois.match_truth": True, "rois.low_quality": False},
        **{"rois.smooth_l1_beta": 1 / 9, "rois.mask_target": "soft"},
        **{"proposals.min_box_size": 1e-3, "detections.min_box_size": 1e-2},
        **{"detections.mask_paste": "border", "detections.class_shift": "few"},
        **{"detections.nms_pixels": "resized", "detections.drop_empty": False},
        **{"targets.smooth_l1_beta": 1 / 9, "targets.loss_count": "sampled"},
    },
    # heads
    "two c4": {"model.box_fcs": 0, "model.box_convs": 0, "model.mask_convs": 0}
    | proposals(6000, 1000, 12000, 2000),
    "two fpn v1": {"model.box_fcs": 2, "model.box_convs": 0, "model.head_convs": 1},
    "two fpn v2": {"model.box_fcs": 1, "model.box_convs": 4, "model.head_convs": 2},
    "two fpn": {"model.mask_convs": 4, "model.box_channels": 1024, "model.mask_channels": 256},
    # RetinaNet
    "retinanet": {
        **{"model.fpn_start": 1, "model.head_convs": 4, "optimizer.learning_rate": 0.01},
        **{"targets.positive_iou": 0.5, "targets.negative_iou": 0.4, "targets.num_samples": 0},
        **{"targets.min_positive_iou": 0, "targets.inside_only": False, "detections.nms_pre": 1000},
        "model.anchor_scales": pytest.approx((4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))),
    },
    "mmdet retinanet": {
        **{"model.fpn_extra": "on_stage", "model.fpn_relu": False, "detections.clip_first": True},
        **{"targets.low_quality_takes": True, "targets.loss_count": "positives"},
        **{"detections.nms_pixels": "original", "detections.max_num": 100},
    },
    "mmdet1 retinanet": {"targets.smooth_l1_beta": 0.11, "detections.class_shift": "never"},
    "mmdet2 retinanet": {"targets.smooth_l1_beta": 0, "detections.class_shift": "always"},
    "detectron2 retinanet": {
        **{"model.fpn_extra": "on_stage", "model.fpn_relu": True, "detections.pairs": True},
        **{"targets.low_quality_takes": False, "targets.loss_count": "average"},
        **{"targets.smooth_l1_beta": 0, "detections.clip_first": False},
        **{"detections.nms_pixels": "resized", "detections.max_num": 100},
    },
    "torchvision retinanet": {
        **{"model.fpn_relu": True, "detections.pairs": True, "detections.clip_first": True},
        **{"targets.low_quality_takes": False, "targets.loss_count": "per_image"},
        **{"detections.nms_pixels": "resized", "detections.max_num": 300},
        "detections.min_box_size": 0,
    },
    "torchvision retinanet v1": {
        **{"model.fpn_extra": "on_level", "model.group_norm": False},
        **{"targets.box_loss": "smooth_l1", "targets.smooth_l1_beta": 0},
    },
    "torchvision retinanet v2": {
        **{"model.fpn_extra": "on_stage", "model.group_norm": True, "targets.box_loss": "giou"},
    },
}


def load(name: str) -> Config:
    return config_lib.parse(config_lib.load_file(CONFIGS / f"{name}.py"))


def words_of(row: Row) -> set[str]:
    """What describes a config: system, detector, neck, style and so on."""
    system = row.name.partition("/")[0] or "mmdet1"
    kind = KIND.search(row.config)[0]
    stages = (
        {"retinanet"} if kind == "retinanet" else {"two", *kind.removesuffix("_rcnn").split("_")}
    )
    neck = "c4" if row.backbone.endswith("C4") else "fpn"
    version = "v2" if row.config.endswith("_v2") else "v1"
    return {system, system.rstrip("12") if "mmdet" in system else "", *stages, neck, row.style,
            row.schedule, version}  # fmt: skip


@each_row
def test_every_value_is_the_documents(row):
    found = {
        ".".join(path): value
        for path, value in flatten_dict(dataclasses.asdict(load(row.config))).items()
    }
    for words, values in FACTS.items():
        if set(words.split()) <= words_of(row):
            assert {name: found[name] for name in values} == values, words
    assert len(found["model.class_names"]) == 80


@each_row
def test_the_network_is_the_names(row):
    model = load(row.config).model
    kind, depth, *group = row.backbone.split("-")[:-1]
    assert (model.depth, model.style) == (int(depth), row.style)
    assert model.detector == KIND.search(row.config)[0]
    assert model.num_stages == 3 + (not row.backbone.endswith("C4"))
    assert [f"{model.groups}x{model.base_width}d"] == (group or ["1x64d"])
    conventions = {"mmdet1": "", "mmdet2": "mmdet2", "detectron2": "detectron2"}
    assert conventions.get(model.convention, "torchvision") == row.name.partition("/")[0]
    assert model.convention.endswith("_v2") == row.config.endswith("_v2")
    assert model.pretrained in PRETRAINED
    network = f"{'next' * (kind == 'X')}{depth}{'_' * bool(group)}{''.join(group)}"
    caffe = "_caffe" * (row.style == "caffe")
    if model.convention == "detectron2":
        assert model.pretrained == "detectron2://" + "-".join([kind, depth, *group])
    else:
        assert model.pretrained.rpartition("/")[2] == f"res{'net' * (kind == 'R')}{network}{caffe}"
    if row.schedule in ("2x", "3x"):
        shorter = CONFIGS / f"{row.config[:-2]}1x.py"
        if shorter.exists():
            assert model == load(shorter.stem).model


@each_row
def test_the_docstring_gives_the_published_figures_and_the_command(row):
    document = importlib.import_module(f"jaxdet.configs.{row.config}").__doc__
    title, *figures, command = document.strip().split("\n\n")
    for value, unit in ((row.box_ap, "box AP"), (row.mask_ap, "mask AP")):
        assert (f"{unit} {value}" in title) == (value is not None)
    assert ("no figure" in title) == (row.box_ap is None)
    said = " ".join(figures)
    for value, unit in ((row.train_time, "s/iter"), (row.memory, "GB"), (row.fps, "images/s")):
        numbers = re.findall(rf"([\d.]+) {unit}", said)
        assert [*map(float, numbers)] == ([] if value is None else [value])
    words = command.replace("\\\n", "").split()
    assert words[:3] == ["python", "-m", "jaxdet.main"]
    assert {f"--config={row.config}", f"--workdir=runs/{row.config}"} <= set(words)
    assert ("--proposals=TRAIN.npz,VAL.npz" in words) == row.config.startswith("fast_")
    assert load(row.config).name == row.config
    assert len((CONFIGS / f"{row.config}.py").read_text().splitlines()) < 20
