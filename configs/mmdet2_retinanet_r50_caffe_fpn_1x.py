"""mmdet 2's RetinaNet, R-50-FPN, caffe style, 1x: box AP 36.3.

python -m jaxdet.main --config=mmdet2_retinanet_r50_caffe_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/mmdet2_retinanet_r50_caffe_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    row = {"depth": 50, "style": "caffe"}
    return base.detector(
        "retinanet", "mmdet2_retinanet_r50_caffe_fpn_1x", convention="mmdet2", **row
    )
