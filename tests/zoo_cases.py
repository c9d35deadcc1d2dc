"""The golden architectures as configs, with their seeded weights and images."""

import dataclasses
import functools
from pathlib import Path

import cv2
import jax
import numpy as np
import reference_weights

from jaxdet import config as config_lib
from jaxdet.config import Config, ModelConfig
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.models.features import AnchorNetwork
from jaxdet.types import Batch, Detector, Images, Params
from jaxdet.weights import layout

CONFIGS = Path(__file__).parents[1] / "configs"

# Golden name -> config file, and what `seeded_state_dict` needs to make its weights.
CAFFE = {"input_std": 57.0}
C4 = {"stages": 3, "neck": False, "head_channels": 1024, "num_anchors": 15}
CASES: dict[str, tuple[str, dict]] = {
    "r50_fpn": ("rpn_r50_fpn_1x", {"depth": 50}),
    "r50_caffe_fpn": ("rpn_r50_caffe_fpn_1x", {"depth": 50, **CAFFE}),
    "r50_c4": ("rpn_r50_c4_1x", {"depth": 50, **C4}),
    "r50_caffe_c4": ("rpn_r50_caffe_c4_1x", {"depth": 50, **C4, **CAFFE}),
    "r101_fpn": ("rpn_r101_fpn_1x", {"depth": 101}),
    "r101_caffe_fpn": ("rpn_r101_caffe_fpn_1x", {"depth": 101, **CAFFE}),
    "x101_32x4d_fpn": ("rpn_x101_32x4d_fpn_1x", {"depth": 101, "groups": 32, "base_width": 4}),
    "x101_64x4d_fpn": ("rpn_x101_64x4d_fpn_1x", {"depth": 101, "groups": 64, "base_width": 4}),
}


# A network of no case that compiles in seconds.
SMALL = ModelConfig(
    depth=18,
    stem_channels=8,
    fpn_channels=8,
    head_channels=8,
    frozen_stages=-1,
    anchor_scales=(4.0,),
)


def config_of(case: str) -> Config:
    """The zoo's config for a golden file."""
    return config_lib.parse(config_lib.load_file(CONFIGS / f"{CASES[case][0]}.py"))


def golden_config(case: str) -> Config:
    """The zoo's, with every positive and negative anchor taken, as in the golden run."""
    config = config_of(case)
    targets = dataclasses.replace(config.targets, num_samples=0)
    optimizer = dataclasses.replace(
        config.optimizer,
        learning_rate=0.01,
        scale_lr=False,
        warmup_steps=0,
        decay_epochs=(1000.0,),
    )
    return dataclasses.replace(config, targets=targets, optimizer=optimizer)


def state_dict_of(case: str, seed: int = 0) -> dict[str, np.ndarray]:
    """The seeded checkpoint in the reference's layout."""
    return reference_weights.seeded_state_dict(seed, **CASES[case][1])


def detector_of(model: ModelConfig) -> Detector:
    """The detector of a network, all else by default."""
    return build_detector(Config(model=model))


def shapes_of(model: ModelConfig) -> Params:
    """Its parameter tree, shapes alone."""
    return param_shapes(detector_of(model))


def fresh_params(model: ModelConfig) -> Params:
    """Its parameters as training begins with them."""
    return jax.jit(detector_of(model).init)(jax.random.key(0, impl="rbg"))


@functools.lru_cache(maxsize=1)
def params_of(case: str) -> Params:
    """The same as our parameter tree."""
    return layout.to_params(state_dict_of(case), shapes_of(config_of(case).model))


def every_map(network: AnchorNetwork, params: Params, images: Images):
    """The backbone's stages, the levels that heads see, and the outputs, of one run."""
    (levels, outputs), kept = network.apply(
        {"params": params},
        images,
        method="forward",
        capture_intermediates=lambda module, _: module.name == "backbone",
        mutable="intermediates",
    )
    return kept["intermediates"]["backbone"]["__call__"][0], levels, outputs


def seeded_image(source_hw, size_hw, seed: int) -> np.ndarray:
    """A seeded image, RGB, resized as the reference does."""
    image = reference_weights.seeded_image(*map(int, source_hw), int(seed))
    height, width = map(int, size_hw)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized[..., ::-1])


def make_batch(images, bucket, pad_sizes, boxes=None, seeds=None) -> Batch:
    """Images of given sizes in one bucket; `boxes` are lists per image."""
    count = len(images)
    canvas = np.zeros((count, *map(int, bucket), 3), images[0].dtype)
    for row, image in zip(canvas, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    most = max([1, *(len(b) for b in boxes or [])])
    padded = np.zeros((count, most, 4), np.float32)
    mask = np.zeros((count, most), bool)
    for i, own in enumerate(boxes or []):
        padded[i, : len(own)], mask[i, : len(own)] = own, True
    return Batch(
        image=canvas,
        image_size=np.array([p.shape[:2] for p in images], np.int32),
        pad_size=np.array(pad_sizes, np.int32),
        scale=np.ones((count, 2), np.float32),
        boxes=padded,
        box_mask=mask,
        seed=np.array(seeds if seeds is not None else range(count), np.uint32),
        index=np.arange(count, dtype=np.int32),
    )


def forward_batch(golden: dict[str, np.ndarray]) -> Batch:
    """The image of a `forward_*` file, padded as there."""
    image = seeded_image(golden["source_hw"], golden["img_shape"], golden["seed"])
    return make_batch([image], golden["pad_shape"], [golden["pad_shape"]])


def train_batch(golden: dict[str, np.ndarray]) -> Batch:
    """The two images of a `train_*` file; both count as padded to the batch's size, as there."""
    images = [
        seeded_image(golden["source_hw"][i], golden[f"img_shape{i}"], golden["seed"] + i)
        for i in range(2)
    ]
    boxes = [golden["gt0"], golden["gt1"]]
    return make_batch(images, golden["batch_hw"], [golden["batch_hw"]] * 2, boxes)
