"""Fast R-CNN with masks, R-50-FPN, pytorch style, 2x: box AP 37.9, mask AP 34.8.

Proposals: those of rpn_r50_fpn_1x, by --mode=eval --save_proposals.

python -m jaxdet.main --config=fast_mask_rcnn_r50_fpn_2x --config.data.root=/data/coco \
    --workdir=runs/fast_mask_rcnn_r50_fpn_2x --proposals=TRAIN.npz,VAL.npz
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 2 images each, 24 epochs of COCO."""
    return base.detector("fast_mask_rcnn", "fast_mask_rcnn_r50_fpn_2x", depth=50, schedule="2x")
