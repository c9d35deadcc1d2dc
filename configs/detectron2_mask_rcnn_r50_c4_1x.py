"""detectron2's Mask R-CNN, R-50-C4, 1x: box AP 36.8, mask AP 32.2.

python -m jaxdet.main --config=detectron2_mask_rcnn_r50_c4_1x --config.data.root=/data/coco \
    --workdir=runs/detectron2_mask_rcnn_r50_c4_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 90,000 steps."""
    row = {"depth": 50, "style": "caffe", "neck": "c4"}
    return base.detector(
        "mask_rcnn", "detectron2_mask_rcnn_r50_c4_1x", convention="detectron2", **row
    )
