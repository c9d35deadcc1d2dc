"""Fast R-CNN, R-50-C4, pytorch style, 1x: box AP 34.2.

6.3 images/s on 8 V100s.
Proposals: those of rpn_r50_c4_1x, by --mode=eval --save_proposals.

python -m jaxdet.main --config=fast_rcnn_r50_c4_1x --config.data.root=/data/coco \
    --workdir=runs/fast_rcnn_r50_c4_1x --proposals=TRAIN.npz,VAL.npz
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 1 image each, 12 epochs of COCO."""
    return base.detector("fast_rcnn", "fast_rcnn_r50_c4_1x", depth=50, neck="c4")
