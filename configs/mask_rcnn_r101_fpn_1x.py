"""Mask R-CNN, R-101-FPN, pytorch style, 1x: box AP 39.4, mask AP 35.9.

0.571 s/iter, 5.8 GB, 9.5 images/s on 8 V100s.

python -m jaxdet.main --config=mask_rcnn_r101_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/mask_rcnn_r101_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.detector("mask_rcnn", "mask_rcnn_r101_fpn_1x", depth=101)
