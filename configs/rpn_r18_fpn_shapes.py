"""The embedded default: a narrow R-18-FPN from scratch on generated shapes, on a laptop's CPU.

python -m jaxdet.main
"""

from configs import base


def get_config():
    """Everything trains; pictures and pyramid are small."""
    config = base.rpn("rpn_r18_fpn_shapes", depth=18, pretrained="")
    config.model.stem_channels = 32
    config.model.fpn_channels = config.model.head_channels = 64
    config.model.frozen_stages = -1
    config.model.anchor_scales = (4.0,)
    config.data.name = "shapes"
    config.data.image_scale = (160, 128)
    config.data.images_per_device = 8
    config.data.num_workers = 0
    config.optimizer.scale_lr = False
    config.train.num_epochs = 12
    config.train.log_every = 20
    config.train.checkpoint_every = 100
    config.test.batch_size = 8
    return config
