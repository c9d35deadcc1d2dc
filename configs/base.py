"""What the zoo's configs have in common: each system's setting on COCO."""

from typing import Any

import ml_collections

from jaxdet.config import Config, to_config_dict

# In the order of their category ids.
# fmt: off
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)
# fmt: on

# Theirs: 1 to 90, but for ten that no category has.
COCO_IDS = sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})

# What a system does otherwise than the 2018 toolbox, field by field.  A convention of your own is
# another such dict; `model.convention` must be one of `jaxdet.ops.boxes.CONVENTIONS`.
_MMDET2: dict[str, Any] = {
    "data.box_scale": "actual",
    "targets.smooth_l1_beta": 0.0,
    "proposals.level_shift": True,
    "optimizer.warmup_ratio": 0.001,
    "optimizer.clip_norm": 0.0,
    "rois.aligned": True,
    "rois.points": 0,
    "rois.max_num": 1000,
    "rois.low_quality": False,
    "rois.smooth_l1_beta": 0.0,
    "rois.mask_target": "binary",
    "detections.class_shift": "always",
    "detections.mask_paste": "centres",
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
    "rois.match_truth": True,
    "rois.low_quality": False,
    "detections.nms_pixels": "resized",
    "detections.class_shift": "few",
}
_TORCHVISION: dict[str, Any] = {
    **_BOTH,
    "model.init": "torchvision",
    "data.resize": "float",
    "targets.loss_count": "sampled",
    "proposals.max_num": 1000,
    "proposals.min_box_size": 1e-3,
    "rois.min_side": 1.0,
    "rois.level_rule": "torchvision",
    "rois.smooth_l1_beta": 1.0 / 9.0,
    "rois.mask_target": "soft",
    "detections.min_box_size": 1e-2,
    "detections.mask_paste": "border",
    "train.num_epochs": 26,
    "optimizer.decay_epochs": (16.0, 22.0),
}
CONVENTIONS: dict[str, dict[str, Any]] = {
    "mmdet1": {},
    "mmdet2": _MMDET2,
    "mmdet3": {**_MMDET2, "targets.inside_only": False, "proposals.max_num": 1000},
    "detectron2": {
        **_BOTH,
        "model.init": "detectron2",
        "data.resize": "pillow",
        "data.train_short_sides": (640, 672, 704, 736, 768, 800),
        "targets.smooth_l1_beta": 0.0,
        "targets.loss_count": "quota",
        "rois.aligned": True,
        "rois.points": 0,
        "rois.level_rule": "detectron2",
        "rois.max_num": 1000,
        "rois.smooth_l1_beta": 0.0,
        "rois.mask_target": "binary",
        "detections.drop_empty": True,
        "detections.mask_paste": "centres",
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
# detectron2's ResNeXt: BGR as well, but of the pytorch style, and divided.
_BGR_DIVIDED = {
    **{k: v for k, v in CAFFE.items() if k != "model.style"},
    "model.pixel_std": (57.375, 57.12, 58.395),
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "1x": {},  # as the convention has it
    "2x": {"train.num_epochs": 24, "optimizer.decay_epochs": (16.0, 22.0)},
    # detectron2's, in steps, at the 7330 that COCO's epoch has
    "3x": {
        "train.num_steps": 270_000,
        "optimizer.decay_epochs": (210_000 / 7330, 250_000 / 7330),
    },
}


# Of a detector that has one, whatever the system.
_RPN_OF_TWO = {"proposals.nms_pre": 1000, "proposals.nms_post": 1000, "proposals.max_num": 1000}
_C4_OF_TWO = {
    "proposals.nms_pre": 6000,
    "rois.nms_pre": 12000,
    "rois.max_num": 2000,
    "model.box_fcs": 0,
    "model.mask_convs": 0,
}
_RETINANET = {
    "model.fpn_start": 1,
    "model.fpn_extra": "on_stage",
    "model.head_convs": 4,
    "model.anchor_scales": tuple(4 * 2 ** (i / 3) for i in range(3)),
    "targets.positive_iou": 0.5,
    "targets.negative_iou": 0.4,
    "targets.min_positive_iou": 0.0,
    "targets.inside_only": False,
    "targets.num_samples": 0,
    "targets.loss_count": "positives",
    "optimizer.learning_rate": 0.01,
}
# What RetinaNet has otherwise in a system, beside its anchors and targets.
_RETINANET_OF: dict[str, dict[str, Any]] = {
    "mmdet1": {"targets.smooth_l1_beta": 0.11},
    "mmdet2": {},
    # Any side above 0.
    "mmdet3": {"detections.pairs": True, "detections.min_box_size": 1e-30},
    "detectron2": {
        "model.fpn_relu": True,
        "targets.loss_count": "average",
        "detections.pairs": True,
        "detections.clip_first": False,
    },
    "torchvision": {
        "model.fpn_extra": "on_level",
        "model.fpn_relu": True,
        "targets.smooth_l1_beta": 0.0,
        "targets.loss_count": "per_image",
        "detections.pairs": True,
        "detections.min_box_size": 0.0,
        "detections.max_num": 300,
    },
}
_RETINANET_OF["torchvision_v2"] = {
    **_RETINANET_OF["torchvision"],
    "model.fpn_extra": "on_stage",
    "model.group_norm": True,
    "targets.box_loss": "giou",
}


def rpn(
    name: str,
    *,
    depth: int,
    style: str = "pytorch",
    neck: str = "fpn",
    schedule: str = "1x",
    groups: int = 1,
    base_width: int = 64,
    pretrained: str | None = None,
    convention: str = "mmdet1",
) -> ml_collections.ConfigDict:
    """Returns one row of a zoo: `depth` layers, `neck` fpn or c4, `schedule` 1x, 2x or 3x.

    Where `pretrained` is None, training begins with the backbone that the system's own models began
    with; where it is empty, from scratch.
    """
    config = to_config_dict(Config())
    config.name = name
    model, first = config.model, convention == "mmdet1"
    model.convention, model.depth = convention, depth
    own = _backbone(convention, depth, style, groups, base_width)
    model.pretrained = own if pretrained is None else pretrained
    model.groups, model.base_width = groups, base_width
    changes = dict(CONVENTIONS[convention])
    if style == "caffe":
        changes |= CAFFE_2018 if first else CAFFE
    elif convention == "detectron2":
        changes |= _BGR_DIVIDED
    if neck == "c4":
        changes |= C4
    changes |= SCHEDULES[schedule]
    config.update_from_flattened_dict(changes)
    if not first:  # no level is cut after its own suppression
        config.proposals.nms_post = config.proposals.nms_pre
    if neck == "c4" and convention == "detectron2":
        config.data.pad_multiple = 1
    return config


def _backbone(convention: str, depth: int, style: str, groups: int, base_width: int) -> str:
    if convention == "detectron2":
        return (
            f"detectron2://X-{depth}-{groups}x{base_width}d"
            if groups > 1
            else f"detectron2://R-{depth}"
        )
    if groups > 1:
        return f"open-mmlab://resnext{depth}_{groups}x{base_width}d"
    if style == "pytorch":
        return f"torchvision://resnet{depth}"
    return f"open-mmlab://{'' if convention == 'mmdet1' else 'detectron2/'}resnet{depth}_caffe"


def detector(kind: str, name: str, **row: Any) -> ml_collections.ConfigDict:
    """Returns one row of a zoo of whole detectors.

    Args:
        kind: a detector of COCO's classes: faster_rcnn, mask_rcnn, fast_rcnn, fast_mask_rcnn or
            retinanet.
        name: the config's.
        row: as for `rpn`.
    """
    config = rpn(name, **row)
    convention, is_c4 = config.model.convention, config.model.num_stages == 3
    changes: dict[str, Any] = {"model.detector": kind, "model.class_names": COCO_CLASSES}
    if convention.startswith("torchvision"):
        changes["model.class_outputs"] = "coco_ids"
    if kind == "retinanet":
        changes |= _RETINANET | _RETINANET_OF[convention]
    else:
        changes |= _RPN_OF_TWO | (_C4_OF_TWO if is_c4 else {})
        if is_c4 and convention == "mmdet1":
            changes["data.images_per_device"] = 1
        if convention == "torchvision_v2":
            changes |= {"model.box_convs": 4, "model.box_fcs": 1}
    if "mask" in kind and convention.startswith("mmdet"):
        changes["rois.low_quality"] = True
    if "mask" in kind and convention == "mmdet3":
        changes["detections.nms_pixels"] = "resized"
    config.update_from_flattened_dict(changes)
    return config
