"""Mask R-CNN, R-101-FPN, pytorch style, 2x: box AP 40.3, mask AP 36.5.

python -m jaxdet.main --config=mask_rcnn_r101_fpn_2x --config.data.root=/data/coco \
    --workdir=runs/mask_rcnn_r101_fpn_2x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 24 epochs of COCO."""
    return base.detector("mask_rcnn", "mask_rcnn_r101_fpn_2x", depth=101, schedule="2x")
