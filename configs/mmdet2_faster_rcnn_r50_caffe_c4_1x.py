"""mmdet 2's Faster R-CNN, R-50-C4, caffe style, 1x: box AP 35.6.

python -m jaxdet.main --config=mmdet2_faster_rcnn_r50_caffe_c4_1x --config.data.root=/data/coco \
    --workdir=runs/mmdet2_faster_rcnn_r50_caffe_c4_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    row = {"depth": 50, "style": "caffe", "neck": "c4"}
    return base.detector(
        "faster_rcnn", "mmdet2_faster_rcnn_r50_caffe_c4_1x", convention="mmdet2", **row
    )
