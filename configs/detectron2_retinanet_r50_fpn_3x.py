"""detectron2's RetinaNet, R-50-FPN, 3x: box AP 38.7.

python -m jaxdet.main --config=detectron2_retinanet_r50_fpn_3x --config.data.root=/data/coco \
    --workdir=runs/detectron2_retinanet_r50_fpn_3x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 270,000 steps."""
    row = {"depth": 50, "style": "caffe", "schedule": "3x"}
    return base.detector(
        "retinanet", "detectron2_retinanet_r50_fpn_3x", convention="detectron2", **row
    )
