"""What the zoo's configs have in common: each system's setting on COCO."""

from typing import Any

import ml_collections

from jaxdet.config import Config, to_config_dict

# What a system does otherwise than the 2018 toolbox, field by field.  A convention of your own is
# another such dict; `model.convention` must be one of `jaxdet.ops.boxes.CONVENTIONS`.
_MMDET2: dict[str, Any] = {
    "data.box_scale": "actual",
    "targets.smooth_l1_beta": 0.0,
    "proposals.level_shift": True,
    "optimizer.warmup_ratio": 0.001,
    "optimizer.clip_norm": 0.0,
}
_BOTH: dict[str, Any] = {  # detectron2 and torchvision
    "data.box_scale": "actual",
    "targets.inside_only": False,
    "targets.low_quality_takes": False,
    "targets.min_positive_iou": 0.0,
    "proposals.nms_pre": 1000,
    "optimizer.warmup_ratio": 0.001,
    "optimizer.warmup_steps": 1000,
    "optimizer.clip_norm": 0.0,
    "model.train_norm": False,
}
_TORCHVISION: dict[str, Any] = {
    **_BOTH,
    "data.resize": "float",
    "targets.loss_count": "sampled",
    "proposals.max_num": 1000,
    "proposals.min_box_size": 1e-3,
    "train.num_epochs": 26,
    "optimizer.decay_epochs": (16.0, 22.0),
}
CONVENTIONS: dict[str, dict[str, Any]] = {
    "mmdet1": {},
    "mmdet2": _MMDET2,
    "mmdet3": {**_MMDET2, "targets.inside_only": False, "proposals.max_num": 1000},
    "detectron2": {
        **_BOTH,
        "data.resize": "pillow",
        "data.train_short_sides": (640, 672, 704, 736, 768, 800),
        "targets.smooth_l1_beta": 0.0,
        "targets.loss_count": "quota",
        # Steps 60,000 and 80,000 of 90,000, at the 7330 steps that COCO's epoch has.
        "train.num_steps": 90_000,
        "optimizer.decay_epochs": (60_000 / 7330, 80_000 / 7330),
    },
    "torchvision": _TORCHVISION,
    "torchvision_v2": {**_TORCHVISION, "model.head_convs": 2, "model.train_norm": True},
}
C4 = {
    "model.num_stages": 3,
    "model.fpn_channels": 0,
    "model.head_channels": 1024,
    "model.anchor_scales": (2.0, 4.0, 8.0, 16.0, 32.0),
    "proposals.nms_pre": 12000,
    "proposals.max_num": 2000,
}
# Detectron's input: BGR, not divided by a standard deviation.  The 2018 toolbox took its means.
CAFFE = {
    "model.style": "caffe",
    "model.train_norm": False,
    "model.channel_order": "bgr",
    "model.pixel_mean": (103.53, 116.28, 123.675),
    "model.pixel_std": (1.0, 1.0, 1.0),
}
CAFFE_2018 = {**CAFFE, "model.pixel_mean": (102.9801, 115.9465, 122.7717)}


def rpn(
    name: str,
    *,
    depth: int,
    style: str = "pytorch",
    neck: str = "fpn",
    schedule: str = "1x",
    groups: int = 1,
    base_width: int = 64,
    pretrained: str,
    convention: str = "mmdet1",
) -> ml_collections.ConfigDict:
    """Returns one row of a zoo: `depth` layers, `neck` fpn or c4, `schedule` 1x or 2x."""
    config = to_config_dict(Config())
    config.name = name
    model, first = config.model, convention == "mmdet1"
    model.convention, model.depth, model.pretrained = convention, depth, pretrained
    model.groups, model.base_width = groups, base_width
    changes = dict(CONVENTIONS[convention])
    if style == "caffe":
        changes |= CAFFE_2018 if first else CAFFE
    if neck == "c4":
        changes |= C4
    if schedule == "2x":
        changes |= {"train.num_epochs": 24, "optimizer.decay_epochs": (16.0, 22.0)}
    config.update_from_flattened_dict(changes)
    if not first:  # no level is cut after its own suppression
        config.proposals.nms_post = config.proposals.nms_pre
    if neck == "c4" and convention == "detectron2":
        config.data.pad_multiple = 1
    return config
