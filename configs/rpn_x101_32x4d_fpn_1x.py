"""X-101-32x4d-FPN, pytorch style, 1x: AR1000 59.4, 0.589 s/iter, 6.6 GB, 11.8 images/s on 8 V100s.

python -m jaxdet.main --config=configs/rpn_x101_32x4d_fpn_1x.py --config.data.root=/data/coco \
    --workdir=runs/rpn_x101_32x4d_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.rpn(
        "rpn_x101_32x4d_fpn_1x",
        depth=101,
        groups=32,
        base_width=4,
        pretrained="open-mmlab://resnext101_32x4d",
    )
