"""R-101-FPN, pytorch style, 1x: AR1000 58.6, 0.396 s/iter, 5.4 GB, 14.4 images/s on 8 V100s.

python -m jaxdet.main --config=configs/rpn_r101_fpn_1x.py --config.data.root=/data/coco \
    --workdir=runs/rpn_r101_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.rpn(
        "rpn_r101_fpn_1x",
        depth=101,
        pretrained="torchvision://resnet101",
    )
