"""mmdet 2's RetinaNet, R-50-FPN, pytorch style, 2x: box AP 37.4.

python -m jaxdet.main --config=mmdet2_retinanet_r50_fpn_2x --config.data.root=/data/coco \
    --workdir=runs/mmdet2_retinanet_r50_fpn_2x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 24 epochs of COCO."""
    return base.detector(
        "retinanet", "mmdet2_retinanet_r50_fpn_2x", depth=50, schedule="2x", convention="mmdet2"
    )
