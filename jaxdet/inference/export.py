"""Writes a model as one file that runs without the config; `exported` reads it."""

import contextlib
import dataclasses
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

import jaxdet
from jaxdet.checkpoint import read_params
from jaxdet.config import Config
from jaxdet.data.buckets import Size, bucket_sizes
from jaxdet.data.image import STRIDE
from jaxdet.detectors.build import build_detector, param_shapes
from jaxdet.distributed import print_once
from jaxdet.errors import InputError
from jaxdet.files import make_folder, whole
from jaxdet.inference.exported import FORMAT, FORMAT_VERSION, MANIFEST, Manifest, program_member
from jaxdet.types import Array, Images, Params

PLATFORMS = ("cpu", "cuda", "tpu")


def run_export(config: Config, checkpoint: str | Path, out: Path) -> None:
    """Writes the model of a checkpoint to the file `out`.

    Raises:
        InputError: the checkpoint cannot be read or the file not written, or there are several
            hosts.
    """
    if jax.process_count() > 1:
        raise InputError("--mode=export: runs on one host; start it there, without --distributed")
    shapes = param_shapes(build_detector(config))
    params = read_params(checkpoint, shapes, config.model.convention)
    write_exported(config, params, out)
    megabytes = out.stat().st_size / 1e6
    print_once(f"wrote {out} ({megabytes:.1f} MB), for jaxdet.load_exported")


def write_exported(config: Config, params: Params, path: Path) -> None:
    """Writes a model with a program for each bucket; an existing file is replaced at the end.

    Raises:
        InputError: the file cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give --out the name of a file")
    make_folder(path.parent)
    with whole(path) as file, zipfile.ZipFile(file, "w") as members:
        _write_members(members, config, params)


def _write_members(file: zipfile.ZipFile, config: Config, params: Params) -> None:
    buckets = bucket_sizes(config.data.image_scale)
    long, short = config.data.image_scale
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        name=config.name,
        image_scale=(long, short),
        buckets=buckets,
        jaxdet=jaxdet.__version__,
        jax=jax.__version__,
    )
    text = json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"
    _write_member(file, MANIFEST, text.encode())
    for name, value in traverse_util.flatten_dict(params, sep="/").items():
        # Members carry no time, so that the same model makes the same file.
        with file.open(zipfile.ZipInfo(f"params/{name}.npy"), "w") as member:
            np.lib.format.write_array(member, np.asarray(value, np.float32))
    for i, bucket in enumerate(buckets):
        print_once(f"bucket {bucket[0]} x {bucket[1]} ({i + 1} of {len(buckets)})")
        _write_member(file, program_member(bucket), _program(config, bucket).serialize())


def _write_member(file: zipfile.ZipFile, name: str, data: bytes | bytearray) -> None:
    with file.open(zipfile.ZipInfo(name), "w") as member:
        member.write(data)


def _program(config: Config, bucket: Size) -> export.Exported:
    """Returns one bucket's program, for any number of images."""
    detector = build_detector(config)

    def run(params: Params, image: Array, image_size: Array) -> tuple[Array, Array, Array]:
        images = Images(image, image_size, -(-image_size // STRIDE) * STRIDE)
        with jax.default_matmul_precision(config.train.matmul_precision):
            found = detector.predict(params, images)
        return found.boxes, found.scores, found.valid

    (batch,) = export.symbolic_shape("batch")
    arguments = (
        param_shapes(detector),
        jax.ShapeDtypeStruct((batch, *bucket, 3), jnp.uint8),
        jax.ShapeDtypeStruct((batch, 2), jnp.int32),
    )
    with _without_source_lines():
        return export.export(jax.jit(run), platforms=PLATFORMS)(*arguments)


@contextlib.contextmanager
def _without_source_lines() -> Iterator[None]:
    """Programs name no file of this machine, and do not depend on who called."""
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)
