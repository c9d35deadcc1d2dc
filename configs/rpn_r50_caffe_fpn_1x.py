"""R-50-FPN, caffe style, 1x: AR1000 58.2, 0.253 s/iter, 3.3 GB, 16.9 images/s on 8 V100s.

python -m jaxdet.main --config=configs/rpn_r50_caffe_fpn_1x.py --config.data.root=/data/coco \
    --workdir=runs/rpn_r50_caffe_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.rpn(
        "rpn_r50_caffe_fpn_1x",
        depth=50,
        style="caffe",
        pretrained="open-mmlab://resnet50_caffe",
    )
