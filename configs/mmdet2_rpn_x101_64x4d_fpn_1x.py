"""mmdet 2's X-101-64x4d-FPN, pytorch style, 1x: AR1000 61.0.

python -m jaxdet.main --config=mmdet2_rpn_x101_64x4d_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/mmdet2_rpn_x101_64x4d_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    return base.rpn(
        "mmdet2_rpn_x101_64x4d_fpn_1x",
        depth=101,
        groups=64,
        base_width=4,
        pretrained="open-mmlab://resnext101_64x4d",
        convention="mmdet2",
    )
