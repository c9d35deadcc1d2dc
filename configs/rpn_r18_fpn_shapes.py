"""The embedded default: a narrow R-18-FPN from scratch on generated shapes, on a laptop's CPU.

python -m jaxdet.main
"""

from jaxdet.configs import base


def get_config():
    """Returns small images, a narrow pyramid, and what lets so short a run learn to fit boxes."""
    config = base.rpn("rpn_r18_fpn_shapes", depth=18, pretrained="")
    config.model.stem_channels = 32
    config.model.fpn_channels = config.model.head_channels = 64
    config.model.frozen_stages = -1
    config.model.anchor_scales = (4.0, 5.04, 6.35)  # a third of an octave apart
    config.data.name = "shapes"
    config.data.image_scale = (160, 144)
    config.data.images_per_device = 8
    config.data.num_workers = 0
    # More anchors are positive, and boxes weigh more in the loss, than in the zoo.
    config.targets.positive_iou = 0.5
    config.targets.negative_iou = 0.4
    config.targets.num_samples = 32
    config.targets.smooth_l1_beta = 0.03
    # Without normalisation or pretrained weights SGD would take many times as long.
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.003
    config.optimizer.scale_lr = False
    config.optimizer.weight_decay = 1e-3
    config.optimizer.clip_norm = 10.0
    config.optimizer.warmup_steps = 80
    config.optimizer.warmup_ratio = 0.1
    config.optimizer.decay_epochs = (9.0, 13.0, 16.0)
    config.optimizer.decay_factor = 0.3
    config.train.matmul_precision = "tensorfloat32"
    config.train.num_epochs = 18
    config.train.log_every = 20
    config.train.eval_every = 18
    config.train.checkpoint_every = 200
    config.proposals.nms_threshold = 0.8
    config.proposals.batch_size = 10
    return config
