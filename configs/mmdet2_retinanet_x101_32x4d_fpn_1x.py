"""mmdet 2's RetinaNet, X-101-32x4d-FPN, pytorch style, 1x: box AP 39.9.

python -m jaxdet.main --config=mmdet2_retinanet_x101_32x4d_fpn_1x --config.data.root=/data/coco \
    --workdir=runs/mmdet2_retinanet_x101_32x4d_fpn_1x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 12 epochs of COCO."""
    row = {"depth": 101, "groups": 32, "base_width": 4}
    return base.detector(
        "retinanet", "mmdet2_retinanet_x101_32x4d_fpn_1x", convention="mmdet2", **row
    )
