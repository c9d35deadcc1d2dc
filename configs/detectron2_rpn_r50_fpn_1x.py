"""detectron2's R-50-FPN, 1x: AR1000 58.0 by its own recall (`fast` here).

python -m jaxdet.main --config=detectron2_rpn_r50_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/detectron2_rpn_r50_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 90,000 steps."""
    return base.rpn(
        "detectron2_rpn_r50_fpn_1x",
        depth=50,
        style="caffe",
        pretrained="detectron2://R-50",
        convention="detectron2",
    )
