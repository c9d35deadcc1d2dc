"""RetinaNet, R-101-FPN, caffe style, 1x: box AP 37.8.

0.410 s/iter, 5.3 GB, 10.4 images/s on 8 V100s.

python -m jaxdet.main --config=retinanet_r101_caffe_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/retinanet_r101_caffe_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.detector("retinanet", "retinanet_r101_caffe_fpn_1x", depth=101, style="caffe")
