"""Runs what `--mode=export` wrote.  Needs that file alone: no config, no model code.

The file is a zip without compression:

    manifest.json             the fields of `Manifest`
    params/<path>.npy         one float32 array per parameter, such as
                              params/backbone/conv1/kernel.npy
    programs/<H>x<W>.jax      one serialized `jax.export.Exported` (StableHLO) per bucket

A program maps (params, image, image_size) to (boxes, scores, valid):

    params: the arrays, as nested dicts
    image: uint8 [B, H, W, 3], RGB, images in the upper left corners of their rows
    image_size: int32 [B, 2], (height, width) of each; pixels beyond have no influence
    boxes: float32 [B, N, 4], x1 y1 x2 y2, inclusive, in pixels of `image`, best first
    scores: float32 [B, N]; zero where not valid
    valid: bool [B, N]; the valid ones come first

for any B.  JAX promises to read programs for six months after the release that wrote them.
"""

import dataclasses
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from jaxdet.config import DataConfig
from jaxdet.data.buckets import Size, bucket_of, bucket_sizes
from jaxdet.data.image import STRIDE
from jaxdet.errors import InputError
from jaxdet.files import open_regular
from jaxdet.inference.single import Result, batch_of_one, result_of
from jaxdet.types import Batch, Predictions

FORMAT = "jaxdet-exported"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAX_SIDE = 8192  # pixels, as in a config

# What reading a file that is not, or no longer, such a zip may raise.
_DAMAGE = (
    *(OSError, EOFError, LookupError, ValueError, ArithmeticError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a program does not say about itself."""

    format: str
    format_version: int
    name: str  # of the config
    image_scale: tuple[int, int]  # bounds of an image's long and short side, in pixels
    buckets: tuple[Size, ...]  # smallest first; an image goes into the first that holds it
    jaxdet: str  # version that wrote the file
    jax: str


def program_member(bucket: Size) -> str:
    """Returns the name of a bucket's program within the file."""
    return f"programs/{bucket[0]}x{bucket[1]}.jax"


class ExportedModel:
    """Finds proposals in images on the first device; compiles once per bucket and batch size."""

    def __init__(
        self, manifest: Manifest, params: dict[str, Any], programs: dict[Size, export.Exported]
    ) -> None:
        """Puts the parameters on the device."""
        self.manifest = manifest
        self._params = jax.device_put(params, jax.local_devices()[0])
        self._programs = {k: jax.jit(program.call) for k, program in programs.items()}

    def __call__(self, image: np.ndarray | str | Path) -> Result:
        """Proposals of an image.

        Args:
            image: uint8 (H, W, 3) RGB, or the path of an image.

        Raises:
            InputError: the file cannot be read, or the array is not such an image.
        """
        data = DataConfig(image_scale=self.manifest.image_scale)
        batch = batch_of_one(image, data, self.manifest.buckets)
        return result_of(self.predict(batch), batch)

    def predict(self, batch: Batch) -> Predictions:
        """Returns predictions (NumPy) of images of one bucket, in pixels of the resized images.

        Args:
            batch: any number of rows; only `image` and `image_size` are read.

        Raises:
            InputError: the file has no program for images of this size.
        """
        height, width = batch.image.shape[1:3]
        if (height, width) not in self._programs:
            known = ", ".join(f"{h} x {w}" for h, w in self._programs)
            raise InputError(f"batch: of {height} x {width} pixels; there are programs for {known}")
        program = self._programs[height, width]
        boxes, scores, valid = jax.device_get(program(self._params, batch.image, batch.image_size))
        return Predictions(boxes, scores, np.zeros(valid.shape, np.int32), valid)


def load_exported(path: str | Path) -> ExportedModel:
    """Returns the model in a file that `--mode=export` wrote.

    Raises:
        InputError: the file is missing, damaged, of another version, or not for this device.
    """
    path = Path(path)
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as file:
            _require_stored(file, path.stat().st_size)
            manifest = _read_manifest(path, file)
            params = _read_params(path, file)
            programs = {b: _read_program(path, file, b, manifest) for b in manifest.buckets}
        for bucket, program in programs.items():
            _require_fit(path, program, params, bucket)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; --mode=export writes one") from None
    except _DAMAGE as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a whole exported model ({what}); export it again") from None
    return ExportedModel(manifest, params, programs)


def _require_stored(file: zipfile.ZipFile, size: int) -> None:
    """Members that unpack to more than the file holds are a trap."""
    members = file.infolist()
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or sum(member.file_size for member in members) > size:
        raise ValueError("its members are compressed")


def _read_manifest(path: Path, file: zipfile.ZipFile) -> Manifest:
    found = json.loads(file.read(MANIFEST))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path}: not a file that --mode=export wrote")
    version = found.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: of format {version}, written by jaxdet {found.get('jaxdet')}; this jaxdet "
            f"reads format {FORMAT_VERSION}: export it again"
        )
    names = [field.name for field in dataclasses.fields(Manifest)]
    try:
        fields = {name: found[name] for name in names}
        long, short = map(int, fields["image_scale"])
        buckets = tuple((int(height), int(width)) for height, width in fields["buckets"])
    except TypeError as error:
        raise ValueError(f"{MANIFEST}: {error}") from None
    if not 0 < short <= long <= MAX_SIDE or min(map(min, buckets), default=0) < STRIDE:
        raise ValueError(f"{MANIFEST}: sizes out of range")
    for size in bucket_sizes((long, short)):
        bucket_of(size, buckets)  # an image of any shape finds one
    return Manifest(**{**fields, "image_scale": (long, short), "buckets": buckets})


def _read_params(path: Path, file: zipfile.ZipFile) -> dict[str, Any]:
    """Returns the nested tree of what lies under params/."""
    params: dict[str, Any] = {}
    for name in file.namelist():
        if name.startswith("params/") and name.endswith(".npy"):
            *folders, leaf = name.removeprefix("params/").removesuffix(".npy").split("/")
            node = params
            for folder in folders:
                node = node.setdefault(folder, {})
                if not isinstance(node, dict):
                    raise ValueError(f"{name} lies within an array")
            node[leaf] = _read_array(path, file, name)
    return params


def _read_array(path: Path, file: zipfile.ZipFile, name: str) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(file.read(name)), allow_pickle=False)
    if array.dtype != np.float32:
        raise ValueError(f"{name} is {array.dtype}, not float32")
    if not np.isfinite(array).all():
        raise InputError(f"{path}: {name} holds NaN or infinity; export another checkpoint")
    return array


def _read_program(
    path: Path, file: zipfile.ZipFile, bucket: Size, manifest: Manifest
) -> export.Exported:
    data = file.read(program_member(bucket))
    try:
        return export.deserialize(bytearray(data))
    except Exception as error:  # the parser raises whatever the bytes lead to
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: jax {jax.__version__} cannot read its programs, which jax {manifest.jax} "
            f"wrote ({what}); export it again"
        ) from None


def _require_fit(
    path: Path, program: export.Exported, params: dict[str, Any], bucket: Size
) -> None:
    """Requires that a program takes these parameters and images, and is for this device."""
    wanted, *inputs = _arguments(program)
    if jax.tree.map(lambda x: (x.shape, x.dtype), wanted) != jax.tree.map(
        lambda x: (x.shape, x.dtype), params
    ):
        raise InputError(f"{path}: its parameters are not those of its programs; export it again")
    given = [((*bucket, 3), np.uint8), ((2,), np.int32)]
    if [(x.shape[1:], x.dtype) for x in inputs] != given or len(program.out_avals) != 3:
        raise ValueError(f"{program_member(bucket)} is the program of something else")
    platform = jax.local_devices()[0].platform
    if {"gpu": "cuda"}.get(platform, platform) not in program.platforms:
        raise InputError(
            f"{path}: exported for {', '.join(program.platforms)}, not for {platform}; set "
            "JAX_PLATFORMS to one of them"
        )


def _arguments(program: export.Exported) -> tuple[Any, ...]:
    """Returns what a program is called with: parameters, images and sizes, of shapes and dtypes."""
    arguments, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    if len(arguments) != 3 or not all(hasattr(x, "shape") for x in arguments[1:]):
        raise ValueError("its programs are those of something else")
    return arguments
