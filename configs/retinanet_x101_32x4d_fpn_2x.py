"""RetinaNet, X-101-32x4d-FPN, pytorch style, 2x: box AP 39.3.

python -m jaxdet.main --config=retinanet_x101_32x4d_fpn_2x --config.data.root=/data/coco \
    --workdir=runs/retinanet_x101_32x4d_fpn_2x
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 24 epochs of COCO."""
    row = {"depth": 101, "schedule": "2x", "groups": 32, "base_width": 4}
    return base.detector("retinanet", "retinanet_x101_32x4d_fpn_2x", **row)
