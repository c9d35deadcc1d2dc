"""detectron2's Faster R-CNN, X-101-32x8d-FPN, 3x: box AP 43.0.

python -m jaxdet.main --config=detectron2_faster_rcnn_x101_32x8d_fpn_3x \
    --config.data.root=/data/coco --workdir=runs/detectron2_faster_rcnn_x101_32x8d_fpn_3x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 270,000 steps."""
    row = {"depth": 101, "schedule": "3x", "groups": 32, "base_width": 8}
    return base.detector(
        "faster_rcnn", "detectron2_faster_rcnn_x101_32x8d_fpn_3x", convention="detectron2", **row
    )
