"""What the configs of the embedded shapes have in common: small networks, trained from scratch."""

import ml_collections

from jaxdet.data.shapes import SHAPES_CLASSES

RPN = {
    # More anchors are positive, and boxes weigh more in the loss, than in the zoo.
    "targets.positive_iou": 0.5,
    "targets.negative_iou": 0.4,
    "targets.inside_only": False,
    "targets.num_samples": 128,
    "targets.smooth_l1_beta": 0.03,
    "model.anchor_scales": (4.0, 5.04, 6.35),  # a third of an octave apart
}
TWO_STAGE = {
    **RPN,
    "model.class_names": SHAPES_CLASSES,
    "model.box_channels": 256,
    "model.mask_convs": 2,
    "model.mask_channels": 64,
    "proposals.nms_pre": 200,
    "proposals.nms_post": 100,
    "proposals.max_num": 100,
    "rois.nms_pre": 200,
    "rois.nms_post": 200,
    "rois.max_num": 200,
    "rois.num_samples": 64,
    "rois.smooth_l1_beta": 0.1,
}


def small(config: ml_collections.ConfigDict, epochs: int) -> ml_collections.ConfigDict:
    """Returns a config of small images, a narrow pyramid, and a schedule of minutes on a CPU."""
    model = config.model
    model.stem_channels, model.fpn_channels, model.head_channels = 32, 64, 64
    model.frozen_stages = -1
    data, train, optimizer = config.data, config.train, config.optimizer
    data.name, data.image_scale = "shapes", (160, 144)
    data.images_per_device, data.num_workers = 4, 0
    # Without normalisation or pretrained weights SGD would take many times as long.
    optimizer.name = "adamw"
    optimizer.learning_rate = 0.0015
    optimizer.scale_lr = False
    optimizer.weight_decay = 1e-3
    optimizer.clip_norm = 10.0
    optimizer.warmup_steps = 80
    optimizer.warmup_ratio = 0.1
    optimizer.decay_epochs = tuple(float(round(epochs * part / 16)) for part in (10, 13, 15))
    optimizer.decay_factor = 0.3
    train.matmul_precision = "tensorfloat32"
    train.num_epochs = train.eval_every = epochs
    train.log_every = 50
    train.checkpoint_every = 200
    config.proposals.batch_size = 10
    return config
