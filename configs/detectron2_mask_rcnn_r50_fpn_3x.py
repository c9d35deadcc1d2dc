"""detectron2's Mask R-CNN, R-50-FPN, 3x: box AP 41.0, mask AP 37.2.

python -m jaxdet.main --config=detectron2_mask_rcnn_r50_fpn_3x --config.data.root=/data/coco \
    --workdir=runs/detectron2_mask_rcnn_r50_fpn_3x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 270,000 steps."""
    row = {"depth": 50, "style": "caffe", "schedule": "3x"}
    return base.detector(
        "mask_rcnn", "detectron2_mask_rcnn_r50_fpn_3x", convention="detectron2", **row
    )
