"""Mask R-CNN, R-50-FPN, pytorch style, 2x: box AP 38.5, mask AP 35.1.

python -m jaxdet.main --config=mask_rcnn_r50_fpn_2x --config.data.root=/data/coco \
    --workdir=runs/mask_rcnn_r50_fpn_2x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 24 epochs of COCO."""
    return base.detector("mask_rcnn", "mask_rcnn_r50_fpn_2x", depth=50, schedule="2x")
