"""R-50-C4, pytorch style, 2x: AR1000 51.1, 20.0 images/s on 8 V100s.

python -m jaxdet.main --config=configs/rpn_r50_c4_2x.py --config.data.root=/data/coco \
    --workdir=runs/rpn_r50_c4_2x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 24 epochs of COCO."""
    return base.rpn(
        "rpn_r50_c4_2x",
        depth=50,
        neck="c4",
        schedule="2x",
        pretrained="torchvision://resnet50",
    )
