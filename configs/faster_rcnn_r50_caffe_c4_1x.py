"""Faster R-CNN, R-50-C4, caffe style, 1x: box AP 34.9.

9.5 images/s on 8 V100s.

python -m jaxdet.main --config=faster_rcnn_r50_caffe_c4_1x --config.data.root=/data/coco \
    --workdir=runs/faster_rcnn_r50_caffe_c4_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 1 image each, 12 epochs of COCO."""
    return base.detector(
        "faster_rcnn", "faster_rcnn_r50_caffe_c4_1x", depth=50, style="caffe", neck="c4"
    )
