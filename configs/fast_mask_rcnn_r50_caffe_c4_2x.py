"""Fast R-CNN with masks, R-50-C4, caffe style, 2x: no figure of its own is published.

Proposals: those of rpn_r50_c4_1x, by --mode=eval --save_proposals.

python -m jaxdet.main --config=fast_mask_rcnn_r50_caffe_c4_2x --config.data.root=/data/coco \
    --workdir=runs/fast_mask_rcnn_r50_caffe_c4_2x --proposals=TRAIN.npz,VAL.npz
"""

from jaxdet.configs import base


def get_config():
    """Returns the published setting: 8 devices with 1 image each, 24 epochs of COCO."""
    row = {"depth": 50, "style": "caffe", "neck": "c4", "schedule": "2x"}
    return base.detector("fast_mask_rcnn", "fast_mask_rcnn_r50_caffe_c4_2x", **row)
