"""What the zoo's configs have in common: the reference's setting on COCO."""

import ml_collections

from jaxdet.config import Config, to_config_dict


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
) -> ml_collections.ConfigDict:
    """Returns one row of the zoo: `depth` layers, `neck` fpn or c4, `schedule` 1x or 2x."""
    config = to_config_dict(Config())
    config.name = name
    model = config.model
    model.depth, model.style = depth, style
    model.groups, model.base_width = groups, base_width
    model.pretrained = pretrained
    if style == "caffe":  # Detectron's input: BGR, not divided by a standard deviation
        model.channel_order = "bgr"
        model.pixel_mean = (102.9801, 115.9465, 122.7717)
        model.pixel_std = (1.0, 1.0, 1.0)
        model.train_norm = False
    if neck == "c4":
        model.num_stages = 3
        model.fpn_channels = 0
        model.head_channels = 1024
        model.anchor_scales = (2.0, 4.0, 8.0, 16.0, 32.0)
        config.proposals.nms_pre = 12000
    if schedule == "2x":
        config.train.num_epochs = 24
        config.optimizer.decay_epochs = (16.0, 22.0)
    return config
