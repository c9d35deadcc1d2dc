"""What holds for every detector with classes, on tiny networks."""

import dataclasses

import jax
import numpy as np
import pytest
from jax import export
from zoo_cases import make_batch

from jaxdet import config as config_lib
from jaxdet.config import Config
from jaxdet.detectors.build import build_detector
from jaxdet.distributed import data_mesh, replicate, split
from jaxdet.inference.export import _program
from jaxdet.training import optimizer as optim
from jaxdet.training.step import init_state, make_train_step
from jaxdet.types import Batch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_blocks", "quick_programs")]

# Other detectors are parts of these.
SIZES = ((70, 60), (60, 90))


def tiny(kind: str) -> Config:
    config = config_lib.load_file(f"{kind.removeprefix('fast_')}_r18_fpn_shapes")
    config.model.detector = kind
    model = config.model
    model.stem_channels = model.fpn_channels = model.head_channels = model.mask_channels = 8
    model.box_channels = 16
    model.num_stages = 3
    config.rois.num_samples = 16
    config.detections.score_threshold = 0.01
    return config_lib.parse(config)


def params_of(config: Config):
    """Noisy ones, so that there is something to detect."""
    rng = np.random.default_rng(0)
    params = jax.jit(build_detector(config).init)(jax.random.key(0, impl="rbg"))
    return jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(x.dtype), params)


def batch_of(sizes, bucket, first: int = 0, boxes_per_image: int = 3) -> Batch:
    """Images that depend on their number from `first` on alone, with objects and proposals."""
    images, boxes, labels, masks, proposals = [], [], [], [], []
    for number, (height, width) in enumerate(sizes, first):
        rng = np.random.default_rng(number)
        images.append(rng.integers(0, 256, (height, width, 3), np.uint8))
        corner = rng.uniform(0, 30, (boxes_per_image, 2))
        boxes.append(np.hstack([corner, corner + rng.uniform(10, 28, corner.shape)]))
        labels.append(rng.integers(0, 7, boxes_per_image, np.int32))
        own = np.zeros((8, *bucket), np.uint8)
        for i, (x1, y1, x2, y2) in enumerate(boxes[-1].astype(int)):
            own[i, y1:y2, x1:x2] = 1
        masks.append(np.packbits(own, axis=-1))
        given = rng.uniform(0, 25, (40, 2))
        proposals.append(np.hstack([given, given + rng.uniform(5, 30, given.shape)]))
    pads = [(-(-h // 32) * 32, -(-w // 32) * 32) for h, w in sizes]
    batch = make_batch(images, bucket, pads, boxes, range(first, first + len(sizes)))
    pad = 8 - boxes_per_image
    return batch._replace(
        boxes=np.pad(batch.boxes, ((0, 0), (0, pad), (0, 0))),
        box_mask=np.pad(batch.box_mask, ((0, 0), (0, pad))),
        labels=np.stack([np.pad(x, (0, pad)) for x in labels]),
        masks=np.stack(masks),
        proposals=np.stack(proposals).astype(np.float32),
        proposal_mask=np.ones((len(sizes), 40), bool),
    )


@pytest.mark.parametrize("kind", ["mask_rcnn", "fast_mask_rcnn"])  # RetinaNets: test_retinanet
def test_an_image_does_not_depend_on_its_bucket_or_neighbours(kind):
    config = tiny(kind)
    predict, params = jax.jit(build_detector(config).predict), params_of(config)
    together = predict(params, batch_of(SIZES, (128, 128)).images)
    alone = predict(params, batch_of(SIZES[1:], (64, 96), first=1).images)
    assert together.valid[1].sum() == alone.valid[0].sum() > 10
    # Another bucket is another program: sums of float32 in another order.
    np.testing.assert_allclose(together.scores[1], alone.scores[0], atol=1e-5)
    np.testing.assert_allclose(together.boxes[1], alone.boxes[0], atol=1e-2)
    np.testing.assert_array_equal(together.labels[1], alone.labels[0])
    if together.masks is not None:
        np.testing.assert_allclose(together.masks[1], alone.masks[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["mask_rcnn"])
def test_eight_devices_are_one(kind):
    """Each of eight groups of two images has its own normalisers, wherever it is computed."""
    config = tiny(kind)
    detector, params = build_detector(config), jax.device_get(params_of(config))
    optimizer = optim.make_optimizer(config.optimizer, lambda _: 1e-3)
    batch = batch_of(SIZES * 8, (96, 96))
    found = []
    for devices, groups in ((8, 1), (1, 8)):
        mesh = data_mesh(jax.devices()[:devices])
        settings = dataclasses.replace(config.train, accumulation=groups)
        step = make_train_step(detector, settings, optimizer, mesh)
        state = replicate(init_state(detector, params, optimizer), mesh)
        found.append(jax.device_get(step(state, split(batch, mesh))))
    (eight, metrics), (one, other) = found
    # Sums over devices and over groups differ in their order.
    for name, value in metrics.items():
        np.testing.assert_allclose(value, other[name], rtol=2e-5, atol=1e-6, err_msg=name)
    for a, b in zip(jax.tree.leaves(eight.params), jax.tree.leaves(one.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kind", ["mask_rcnn", "retinanet"])
def test_the_program_of_any_number_of_images_can_be_written(kind):
    program = _program(tiny(kind), (64, 96))
    assert isinstance(program, export.Exported)
    assert len(program.out_avals) == 4 + (kind == "mask_rcnn")
