"""X-101-64x4d-FPN, pytorch style, 1x: AR1000 59.8, 0.955 s/iter, 9.5 GB, 8.3 images/s on 8 V100s.

python -m jaxdet.main --config=configs/rpn_x101_64x4d_fpn_1x.py --config.data.root=/data/coco \
    --workdir=runs/rpn_x101_64x4d_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.rpn(
        "rpn_x101_64x4d_fpn_1x",
        depth=101,
        groups=64,
        base_width=4,
        pretrained="open-mmlab://resnext101_64x4d",
    )
