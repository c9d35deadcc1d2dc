"""`jaxdet.load(config, checkpoint)`: a detector with its weights as a function of images."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float32

from jaxdet import config as config_lib
from jaxdet.checkpoint import read_params
from jaxdet.config import Config, DataConfig, OptimizerConfig, TrainConfig
from jaxdet.data.buckets import Size, batch_of_one, bucket_sizes, empty_batch
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.distributed import REPLICATED, SPLIT, data_mesh, gather, replicate, split
from jaxdet.inference.single import Image, Result, detect, pixels_of
from jaxdet.models.features import Features
from jaxdet.models.layers import fold_norms
from jaxdet.models.params import apply
from jaxdet.programs import Programs, Store, compiler_options, remembered
from jaxdet.types import Batch, Detector, Images, Params, Predictions


class FeatureMaps(NamedTuple):
    """The maps of one image by stride, in pixels of the resized image per cell.

    Cell (i, j) stands over the pixels from (i, j) * stride on; those beyond the image are left out.
    """

    stages: dict[int, Float32[np.ndarray, "_ _ _"]]  # of the backbone: height, width, channels
    levels: dict[int, Float32[np.ndarray, "_ _ _"]]  # of the pyramid, or C4's last stage
    scale: Float32[np.ndarray, "2"]  # (x, y): resized pixels per pixel of the image


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A detector's predictions on a mesh, compiled once per bucket and batch size."""

    config: Config
    params: Params  # on every device of the mesh, see `models.layers.fold_norms`
    mesh: Mesh
    programs: Programs

    @overload
    def __call__(self, image: list[Any] | tuple[Any, ...], rle: bool = False) -> list[Result]: ...
    @overload
    def __call__(self, image: str | Path, rle: bool = False) -> Result: ...
    @overload
    def __call__(self, image: Image, rle: bool = False) -> Result | Any: ...  # list of a batch
    def __call__(self, image: Any, rle: bool = False) -> Any:
        """Returns the `Result` of an image; of several, a list.

        An image is a file's path, or an array of NumPy or JAX: RGB (height, width, 3), or grey
        (height, width) or (height, width, 1).  uint8 is taken as it is; floats from 0 to 1 times
        255, to the nearest whole number; floats that are whole numbers from 0 to 255 as they are.
        Other floats are refused (`InputError`), and so are those of 0 and 1 alone, which may mean
        either.  Several are a list of images, or an array with a further axis in front; they are
        taken one by one.

        Masks are bool, or COCO's RLE if asked.  The mesh has one device.
        """
        buckets = bucket_sizes(self.config.data.image_scale)

        def predict(batch: Batch) -> Predictions:
            return gather(self.start(batch), self.mesh)

        return detect(image, self.config, buckets, predict, rle)

    def images(self, image: Image) -> Images:
        """Returns an image as `apply` takes it: resized, in its bucket, a batch of one."""
        buckets = bucket_sizes(self.config.data.image_scale)
        batch = batch_of_one(pixels_of(image), self.config.data, buckets)
        return jax.tree.map(jnp.asarray, batch.images)

    def apply(self, params: Params, images: Images) -> Predictions:
        """Returns predictions in resized pixels: the pure function that `__call__` compiles.

        It may be traced by `jit`, `vmap` and `grad`, in the parameters and, where `images.image` is
        float32 (from 0 to 255), in pixels.  Which boxes are chosen has no gradient.
        """
        return build_detector(self.config).predict(params, images)

    def features(self, image: Image) -> FeatureMaps:
        """Returns what backbone and pyramid make of one image, given as to `__call__`."""
        images, model = self.images(image), self.config.model
        maps = self._features(self.params, images)
        rows, columns = images.image_size[0].tolist()

        def own(x: jax.Array, stride: int) -> np.ndarray:
            cells = jnp.asarray(x[0], jnp.float32)[: -(-rows // stride), : -(-columns // stride)]
            return np.asarray(cells)

        strides = [4 * 2**i for i in range(model.num_stages)], model.strides
        stages, levels = (
            {stride: own(x, stride) for x, stride in zip(kind, known, strict=True)}
            for kind, known in zip(maps, strides, strict=True)
        )
        return FeatureMaps(stages, levels, np.asarray(images.scale[0]))

    @cached_property
    def _features(self) -> Callable[[Params, Images], tuple[list[jax.Array], list[jax.Array]]]:
        network = Features(self.config.model, self.config.train)

        def run(params: Params, images: Images) -> tuple[list[jax.Array], list[jax.Array]]:
            with jax.default_matmul_precision(self.config.train.matmul_precision):
                return apply(network, params, images, method=Features.features)

        options = compiler_options(self.config.train.precision)
        return jax.jit(run, compiler_options=options)

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
        return dataclasses.replace(self, params=_ready(params, self.mesh))


def make_predictor(
    config: Config,
    detector: Detector,
    params: Params,
    mesh: Mesh | None = None,
    store: bool = False,
) -> Predictor:
    """Returns a predictor on a mesh, by default of the first device alone.

    With `store` its programs are those of earlier processes, where the cache folder has them.
    """
    mesh = mesh or data_mesh(jax.local_devices()[:1])
    # Images are independent of one another; nothing is exchanged between devices.
    sharded = jax.shard_map(
        detector.predict, mesh=mesh, in_specs=(REPLICATED, SPLIT), out_specs=SPLIT, check_vma=False
    )
    own = store and not mesh.is_multi_process
    kept = Store(_program_key(config), tuple(mesh.devices.flat)) if own else None
    programs = Programs(jax.jit(sharded), store=kept, precision=config.train.precision)
    return Predictor(config, _ready(params, mesh), mesh, programs)


def _ready(params: Params, mesh: Mesh) -> Params:
    """Returns parameters with their norms folded, on every device."""
    return replicate(fold_norms(jax.tree.map(np.asarray, params)), mesh)


def _program_key(config: Config) -> str:
    """Returns all of a config that predictions may depend on, and more: but for files and runs."""
    data, train, optimizer = DataConfig(), TrainConfig(), OptimizerConfig()
    fixed = dataclasses.replace(config, name="", data=data, train=train, optimizer=optimizer)
    used = config.data.pixel_dtype, config.train.precision, config.train.matmul_precision
    return repr((fixed, used))


def load_predictor(config: Config, checkpoint: str | Path, mesh: Mesh | None = None) -> Predictor:
    """Returns the predictor of a configuration and a checkpoint; see `load`."""
    detector = build_detector(config)
    shapes = remembered(_program_key(config), lambda: param_shapes(detector))
    params = read_params(checkpoint, shapes, config.model.convention)
    return make_predictor(config, detector, params, mesh, store=True)


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
