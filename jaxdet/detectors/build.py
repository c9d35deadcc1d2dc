"""From a configuration to its detector."""

import jax

from jaxdet.config import Config
from jaxdet.detectors.faster_rcnn import fast_rcnn, faster_rcnn
from jaxdet.detectors.mask_rcnn import fast_mask_rcnn, mask_rcnn
from jaxdet.detectors.retinanet import retinanet
from jaxdet.detectors.rpn import rpn
from jaxdet.errors import InputError
from jaxdet.types import Detector, Params

DETECTORS = {
    "rpn": rpn,
    "faster_rcnn": faster_rcnn,
    "mask_rcnn": mask_rcnn,
    "fast_rcnn": fast_rcnn,
    "fast_mask_rcnn": fast_mask_rcnn,
    "retinanet": retinanet,
}


def build_detector(config: Config) -> Detector:
    """Returns the detector that `config.model.detector` names.

    Raises:
        InputError: there is none of this name.
    """
    name = config.model.detector
    if name not in DETECTORS:
        known = ", ".join(DETECTORS)
        raise InputError(f"config.model.detector: must be one of {known}, not {name!r}")
    return DETECTORS[name](config)


def param_shapes(detector: Detector) -> Params:
    """Returns the parameter tree with `jax.ShapeDtypeStruct` leaves; computes nothing."""
    return jax.eval_shape(detector.init, jax.random.key(0))
