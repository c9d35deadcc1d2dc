"""The embedded default: a narrow R-18-FPN from scratch on generated shapes, on a laptop's CPU.

python -m jaxdet.main
"""

from jaxdet.configs import base, shapes


def get_config():
    """Returns small images, a narrow pyramid, and what lets so short a run learn to fit boxes."""
    config = base.rpn("rpn_r18_fpn_shapes", depth=18, pretrained="")
    config.update_from_flattened_dict(shapes.RPN)
    # Of boxes this close the one with the highest score is seldom the one that fits best.
    config.proposals.nms_threshold = 0.9
    return shapes.small(config, epochs=22)
