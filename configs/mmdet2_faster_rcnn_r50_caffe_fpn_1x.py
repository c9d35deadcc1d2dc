"""mmdet 2's Faster R-CNN, R-50-FPN, caffe style, 1x: box AP 37.8.

python -m jaxdet.main --config=mmdet2_faster_rcnn_r50_caffe_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/mmdet2_faster_rcnn_r50_caffe_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    row = {"depth": 50, "style": "caffe"}
    return base.detector(
        "faster_rcnn", "mmdet2_faster_rcnn_r50_caffe_fpn_1x", convention="mmdet2", **row
    )
