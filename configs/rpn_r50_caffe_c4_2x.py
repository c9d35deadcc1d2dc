"""R-50-C4, caffe style, 2x: AR1000 52.2, 0.17 s/iter, 2.2 GB, 20.3 images/s on 8 V100s.

python -m jaxdet.main --config=configs/rpn_r50_caffe_c4_2x.py --config.data.root=/data/coco \
    --workdir=runs/rpn_r50_caffe_c4_2x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 24 epochs of COCO."""
    return base.rpn(
        "rpn_r50_caffe_c4_2x",
        depth=50,
        style="caffe",
        neck="c4",
        schedule="2x",
        pretrained="open-mmlab://resnet50_caffe",
    )
