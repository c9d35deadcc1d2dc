"""`jaxdet.load(config, checkpoint)`: a detector with its weights as a function of images."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh, NamedSharding

from jaxdet import config as config_lib
from jaxdet.checkpoint import read_params
from jaxdet.config import Config
from jaxdet.data.buckets import Size, bucket_sizes, empty_batch
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.distributed import REPLICATED, SPLIT, data_mesh, gather, replicate, split
from jaxdet.inference.single import detect
from jaxdet.programs import Programs
from jaxdet.types import Batch, Detector, Images, Params, Predictions


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A detector's predictions on a mesh, compiled once per bucket and batch size."""

    config: Config
    params: Params  # on every device of the mesh
    mesh: Mesh
    programs: Programs

    def __call__(self, image: Any, rle: bool = False) -> Any:
        """Returns the `Result` of an image (uint8 RGB, or its file); of a list, a list.

        Masks are bool, or COCO's RLE if asked.  The mesh has one device.
        """
        buckets = bucket_sizes(self.config.data.image_scale)
        return detect(image, self.config, buckets, lambda batch: gather(self.start(batch)), rle)

    def start(self, batch: Batch) -> Predictions:
        """Hands this host's rows to its devices and returns at once, compiling first if need be."""
        return self.programs(self.params, split(batch.images, self.mesh))

    def compile(self, count: int, bucket: Size) -> bool:
        """Compiles for `count` images over all devices; returns whether that was new."""
        sharding, config = NamedSharding(self.mesh, SPLIT), self.config
        given = config.rois.max_given if config.model.takes_proposals else 0
        one = empty_batch(bucket, 1, config.data.pixel_dtype, given=given).images
        split_up = partial(jax.ShapeDtypeStruct, sharding=sharding)
        images = jax.tree.map(lambda x: split_up((count, *x.shape[1:]), x.dtype), one)
        return self.programs.compile(self.params, images)

    def with_params(self, params: Params) -> "Predictor":
        """Returns a predictor with other parameters and the same compiled programs."""
        return dataclasses.replace(self, params=replicate(params, self.mesh))


def make_predictor(
    config: Config, detector: Detector, params: Params, mesh: Mesh | None = None
) -> Predictor:
    """Returns a predictor on a mesh, by default of the first device alone."""
    mesh = mesh or data_mesh(jax.local_devices()[:1])

    def predict(params: Params, images: Images) -> Predictions:
        with jax.default_matmul_precision(config.train.matmul_precision):
            return detector.predict(params, images)

    # Images are independent of one another; nothing is exchanged between devices.
    sharded = jax.shard_map(
        predict, mesh=mesh, in_specs=(REPLICATED, SPLIT), out_specs=SPLIT, check_vma=False
    )
    return Predictor(config, replicate(params, mesh), mesh, Programs(jax.jit(sharded)))


def load_predictor(config: Config, checkpoint: str | Path, mesh: Mesh | None = None) -> Predictor:
    """Returns the predictor of a configuration and a checkpoint; see `load`."""
    detector = build_detector(config)
    params = read_params(checkpoint, param_shapes(detector), config.model.convention)
    return make_predictor(config, detector, params, mesh)


def load(config: str | Path | ml_collections.ConfigDict, checkpoint: str | Path) -> Predictor:
    """Returns a detector with its weights, as a function of images.

    Raises `InputError` if a file is missing, or the checkpoint is of another architecture.

    Args:
        config: a config file, or the ConfigDict that one returns, changed or not.
        checkpoint: a work directory, one of its checkpoints, a file of mmdet, detectron2
            or torchvision, or a name such as `zoo://rpn_r50_fpn_1x`.
    """
    if isinstance(config, str | Path):
        config = config_lib.load_file(config)
    parsed = config_lib.parse(config)
    predictor = load_predictor(parsed, checkpoint)
    config_lib.warn_of_other_results(checkpoint, parsed)
    return predictor
