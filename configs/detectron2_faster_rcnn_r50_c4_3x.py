"""detectron2's Faster R-CNN, R-50-C4, 3x: box AP 38.4.

python -m jaxdet.main --config=detectron2_faster_rcnn_r50_c4_3x --config.data.root=/data/coco \
    --workdir=runs/detectron2_faster_rcnn_r50_c4_3x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 270,000 steps."""
    row = {"depth": 50, "style": "caffe", "neck": "c4", "schedule": "3x"}
    return base.detector(
        "faster_rcnn", "detectron2_faster_rcnn_r50_c4_3x", convention="detectron2", **row
    )
