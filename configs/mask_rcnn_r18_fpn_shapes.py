"""Mask R-CNN on the embedded shapes: a narrow R-18-FPN from scratch, on a laptop's CPU.

python -m jaxdet.main --config=mask_rcnn_r18_fpn_shapes
"""

from jaxdet.configs import base, shapes


def get_config():
    """Returns small images and a second stage of 64 RoIs per image, with masks."""
    config = base.detector("mask_rcnn", "mask_rcnn_r18_fpn_shapes", depth=18, pretrained="")
    config.update_from_flattened_dict(shapes.TWO_STAGE)
    return shapes.small(config, epochs=16)
