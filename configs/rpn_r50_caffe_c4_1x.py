"""R-50-C4, caffe style, 1x: AR1000 51.1, 20.5 images/s on 8 V100s.

python -m jaxdet.main --config=configs/rpn_r50_caffe_c4_1x.py --config.data.root=/data/coco \
    --workdir=runs/rpn_r50_caffe_c4_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.rpn(
        "rpn_r50_caffe_c4_1x",
        depth=50,
        style="caffe",
        neck="c4",
        pretrained="open-mmlab://resnet50_caffe",
    )
