"""Faster R-CNN, R-101-FPN, pytorch style, 2x: box AP 39.4.

python -m jaxdet.main --config=faster_rcnn_r101_fpn_2x --config.data.root=/data/coco \
    --workdir=runs/faster_rcnn_r101_fpn_2x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 24 epochs of COCO."""
    return base.detector("faster_rcnn", "faster_rcnn_r101_fpn_2x", depth=101, schedule="2x")
