"""detectron2's Mask R-CNN, X-101-32x8d-FPN, 3x: box AP 44.3, mask AP 39.5.

python -m jaxdet.main --config=detectron2_mask_rcnn_x101_32x8d_fpn_3x \
    --config.data.root=/data/coco --workdir=runs/detectron2_mask_rcnn_x101_32x8d_fpn_3x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 270,000 steps."""
    row = {"depth": 101, "schedule": "3x", "groups": 32, "base_width": 8}
    return base.detector(
        "mask_rcnn", "detectron2_mask_rcnn_x101_32x8d_fpn_3x", convention="detectron2", **row
    )
