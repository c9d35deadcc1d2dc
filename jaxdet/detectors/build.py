"""From a configuration to its detector."""

from collections.abc import Callable
from functools import partial

import jax

from jaxdet.config import Config
from jaxdet.detectors.faster_rcnn import given_stage, rpn_stage, two_stage, without_masks
from jaxdet.detectors.mask_rcnn import with_masks
from jaxdet.detectors.retinanet import retinanet
from jaxdet.detectors.rpn import rpn
from jaxdet.errors import InputError
from jaxdet.types import Detector, Images, Params, Predictions


def _rcnn(first: Callable, finish: Callable, config: Config) -> Detector:
    return finish(two_stage(config, first(config)), config)


DETECTORS: dict[str, Callable[[Config], Detector]] = {
    "rpn": rpn,
    "faster_rcnn": partial(_rcnn, rpn_stage, without_masks),
    "mask_rcnn": partial(_rcnn, rpn_stage, with_masks),
    "fast_rcnn": partial(_rcnn, given_stage, without_masks),
    "fast_mask_rcnn": partial(_rcnn, given_stage, with_masks),
    "retinanet": retinanet,
}


def build_detector(config: Config) -> Detector:
    """Returns the detector that `config.model.detector` names; `InputError` if there is none."""
    name = config.model.detector
    if name not in DETECTORS:
        known = ", ".join(DETECTORS)
        raise InputError(f"config.model.detector: must be one of {known}, not {name!r}")
    detector = DETECTORS[name](config)

    def predict(params: Params, images: Images) -> Predictions:
        with jax.default_matmul_precision(config.train.matmul_precision):
            return detector.predict(params, images)

    return detector._replace(predict=predict)


def param_shapes(detector: Detector) -> Params:
    """Returns the parameter tree with `jax.ShapeDtypeStruct` leaves; computes nothing."""
    return jax.eval_shape(detector.init, jax.random.key(0))
