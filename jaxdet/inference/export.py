"""Writes a model as one file that runs without the config; `exported` reads it."""

import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import traverse_util
from jax import export

import jaxdet
from jaxdet.checkpoint import read_params
from jaxdet.config import Config, warn_of_other_results
from jaxdet.data.buckets import Size, bucket_sizes
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.distributed import print_once
from jaxdet.errors import InputError
from jaxdet.files import make_folder, whole
from jaxdet.inference.exported import MANIFEST, Manifest, program_member
from jaxdet.models.layers import fold_norms
from jaxdet.ops.platforms import every_platform
from jaxdet.types import Array, Images, Params

PLATFORMS = ("cpu", "cuda", "tpu")


def run_export(config: Config, checkpoint: str | Path, out: Path) -> None:
    """Writes the model of a checkpoint to the file `out`, on a single host."""
    if jax.process_count() > 1:
        raise InputError("--mode=export: runs on one host; start it there, without --distributed")
    shapes = param_shapes(build_detector(config))
    params = read_params(checkpoint, shapes, config.model.convention)
    warn_of_other_results(checkpoint, config)
    write_exported(config, params, out)
    print_once(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB), for jaxdet.load_exported")


def write_exported(config: Config, params: Params, path: Path) -> None:
    """Writes a model with a program for each bucket; an existing file is replaced at the end."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give --out the name of a file")
    make_folder(path.parent)
    params = fold_norms(jax.tree.map(np.asarray, params))
    # By the fields' names: of those that the manifest has, no two parts share one.
    known = {**vars(config.model), **vars(config.data), **vars(config.detections)}
    known |= {"name": config.name, "buckets": bucket_sizes(config.data.image_scale)}
    known |= {"jaxdet": jaxdet.__version__, "jax": jax.__version__}
    manifest = msgspec.convert(known, Manifest)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    # Members carry no time, so that the same model makes the same file.
    with whole(path) as stream, zipfile.ZipFile(stream, "w") as file:
        file.writestr(zipfile.ZipInfo(MANIFEST), text)
        for name, value in traverse_util.flatten_dict(params, sep="/").items():
            with file.open(zipfile.ZipInfo(f"params/{name}.npy"), "w") as member:
                np.save(member, np.asarray(value, np.float32))
        for i, bucket in enumerate(manifest.buckets, 1):
            print_once(f"bucket {bucket[0]} x {bucket[1]} ({i} of {len(manifest.buckets)})")
            program = _program(config, bucket).serialize()
            file.writestr(zipfile.ZipInfo(program_member(bucket)), bytes(program))


def _program(config: Config, bucket: Size) -> export.Exported:
    """Returns one bucket's program, for any number of images."""
    detector = build_detector(config)

    def run(params: Params, image: Array, image_size: Array, scale: Array) -> tuple[Array, ...]:
        multiple = config.data.pad_multiple
        pad_size = -(-image_size // multiple) * multiple
        images = Images(image, image_size, pad_size, scale)
        found = detector.predict(params, images)
        return tuple(array for array in found if array is not None)

    (batch,) = export.symbolic_shape("batch")
    arguments = (
        jax.eval_shape(fold_norms, param_shapes(detector)),
        jax.ShapeDtypeStruct((batch, *bucket, 3), config.data.pixel_dtype),
        jax.ShapeDtypeStruct((batch, 2), jnp.int32),
        jax.ShapeDtypeStruct((batch, 2), jnp.float32),
    )
    # Programs name no file of this machine, and do not depend on who called.
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        with every_platform():
            return export.export(jax.jit(run), platforms=PLATFORMS)(*arguments)
    finally:
        jax.config.update(option, before)
