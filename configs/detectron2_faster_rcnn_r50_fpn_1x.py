"""detectron2's Faster R-CNN, R-50-FPN, 1x: box AP 37.9.

python -m jaxdet.main --config=detectron2_faster_rcnn_r50_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/detectron2_faster_rcnn_r50_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 90,000 steps."""
    row = {"depth": 50, "style": "caffe"}
    return base.detector(
        "faster_rcnn", "detectron2_faster_rcnn_r50_fpn_1x", convention="detectron2", **row
    )
