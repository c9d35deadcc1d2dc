"""RetinaNet, X-101-64x4d-FPN, pytorch style, 2x: box AP 39.6.

python -m jaxdet.main --config=retinanet_x101_64x4d_fpn_2x --config.data.root=/data/coco \
    --workdir=runs/retinanet_x101_64x4d_fpn_2x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 24 epochs of COCO."""
    row = {"depth": 101, "schedule": "2x", "groups": 64, "base_width": 4}
    return base.detector("retinanet", "retinanet_x101_64x4d_fpn_2x", **row)
