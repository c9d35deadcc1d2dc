"""Mask R-CNN, R-50-FPN, pytorch style, 1x: box AP 37.3, mask AP 34.2.

0.453 s/iter, 3.9 GB, 10.6 images/s on 8 V100s.

python -m jaxdet.main --config=mask_rcnn_r50_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/mask_rcnn_r50_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.detector("mask_rcnn", "mask_rcnn_r50_fpn_1x", depth=50)
