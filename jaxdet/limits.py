"""What each field of a configuration may be, both ends included.

What is further out is taken for a typing error: it would overflow, or fill the memory.
"""

from typing import Any

_MANY, _STEPS = 1_000_000, 2**31 - 1
RANGES: dict[str, tuple[float, float]] = {
    "model.num_stages": (1, 4),
    "model.stem_channels": (1, 4096),
    "model.groups": (1, 4096),
    "model.base_width": (1, 4096),
    "model.frozen_stages": (-1, 4),
    "model.fpn_channels": (0, 16384),
    "model.head_channels": (1, 16384),
    "model.anchor_scales": (0.01, 1024),
    "model.anchor_ratios": (0.01, 100),
    "model.pixel_mean": (-1e6, 1e6),
    "model.pixel_std": (1e-3, 1e6),
    "data.image_scale": (32, 8192),
    "data.images_per_device": (1, 4096),
    "data.num_workers": (0, 1024),
    "data.flip": (0, 1),
    "targets.positive_iou": (1e-6, 1),
    "targets.negative_iou": (0, 1),
    "targets.min_positive_iou": (0, 1),
    "targets.num_samples": (0, _MANY),
    "targets.positive_fraction": (0, 1),
    "targets.smooth_l1_beta": (1e-6, 1e6),
    "optimizer.learning_rate": (1e-30, 1e6),
    "optimizer.momentum": (0, 1),
    "optimizer.weight_decay": (0, 1e6),
    "optimizer.clip_norm": (1e-30, 1e9),
    "optimizer.warmup_steps": (0, _STEPS),
    "optimizer.warmup_ratio": (0, 1),
    "optimizer.decay_epochs": (0, _MANY),
    "optimizer.decay_factor": (0, 1),
    "train.num_epochs": (0, _MANY),
    "train.num_steps": (0, _STEPS),
    "train.seed": (0, 2**32 - 1),
    "train.accumulation": (1, 4096),
    "train.log_every": (1, _STEPS),
    "train.eval_every": (1, _STEPS),
    "train.checkpoint_every": (1, _STEPS),
    "train.keep_checkpoints": (1, _MANY),
    "proposals.nms_pre": (1, _MANY),
    "proposals.nms_post": (1, _MANY),
    "proposals.max_num": (1, _MANY),
    "proposals.nms_threshold": (0, 1),
    "proposals.min_box_size": (0, 8192),
    "proposals.batch_size": (1, 4096),
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "model.depth": (18, 34, 50, 101, 152),
    "model.style": ("pytorch", "caffe"),
    "model.channel_order": ("rgb", "bgr"),
    "data.name": ("coco", "tfds", "shapes"),
    "optimizer.name": ("sgd", "adamw"),
    "train.precision": ("float32", "bfloat16"),
    "train.matmul_precision": ("highest", "tensorfloat32"),
}
MAX_ITEMS = 64  # of a sequence
