"""Runs what `--mode=export` wrote.  Needs that file alone: no config, no model code.

The file is a zip without compression:

    manifest.json             the fields of `Manifest`
    params/<path>.npy         one float32 array per parameter, such as
                              params/backbone/conv1/kernel.npy
    programs/<H>x<W>.jax      one serialized `jax.export.Exported` (StableHLO) per bucket

A program maps (params, image, image_size) to (boxes, scores, valid):

    params: the arrays, as nested dicts
    image: uint8 [B, H, W, 3], RGB, pictures in the upper left corners of their rows
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

from jaxdet.data.buckets import Size
from jaxdet.errors import InputError
from jaxdet.single import Result, batch_of_one, result_of
from jaxdet.types import Batch, Proposals

FORMAT = "jaxdet-exported"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"

# What reading a file that is not, or no longer, such a zip may raise.
_DAMAGE = (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a program does not say about itself."""

    format: str
    format_version: int
    name: str  # of the config
    image_scale: tuple[int, int]  # bounds of a picture's long and short side, in pixels
    buckets: tuple[Size, ...]  # smallest first; a picture goes into the first that holds it
    jaxdet: str  # version that wrote the file
    jax: str


def program_member(bucket: Size) -> str:
    """The name of a bucket's program within the file."""
    return f"programs/{bucket[0]}x{bucket[1]}.jax"


class ExportedModel:
    """Finds proposals in pictures on the first device; compiles once per bucket and batch size."""

    def __init__(
        self, manifest: Manifest, params: dict[str, Any], programs: dict[Size, export.Exported]
    ) -> None:
        """Puts the parameters on the device."""
        self.manifest = manifest
        self._params = jax.device_put(params, jax.local_devices()[0])
        self._programs = {k: jax.jit(program.call) for k, program in programs.items()}

    def __call__(self, image: np.ndarray | str | Path) -> Result:
        """Proposals of a picture.

        Args:
            image: uint8 (H, W, 3) RGB, or the path of a picture.

        Raises:
            InputError: the file cannot be read, or the array is not such a picture.
        """
        batch = batch_of_one(image, self.manifest.image_scale, self.manifest.buckets)
        return result_of(self.propose(batch), batch)

    def propose(self, batch: Batch) -> Proposals:
        """Proposals (NumPy) of pictures of one bucket, in pixels of the resized pictures.

        Args:
            batch: any number of rows; only `image` and `image_size` are read.

        Raises:
            InputError: the file has no program for pictures of this size.
        """
        height, width = batch.image.shape[1:3]
        if (height, width) not in self._programs:
            known = ", ".join(f"{h} x {w}" for h, w in self._programs)
            raise InputError(f"batch: of {height} x {width} pixels; there are programs for {known}")
        program = self._programs[height, width]
        return jax.device_get(Proposals(*program(self._params, batch.image, batch.image_size)))


def load_exported(path: str | Path) -> ExportedModel:
    """The model in a file that `--mode=export` wrote.

    Raises:
        InputError: the file is missing, damaged, of another version, or not for this device.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as file:
            manifest = _read_manifest(path, file)
            params = _read_params(file)
            programs = {b: _read_program(path, file, b, manifest) for b in manifest.buckets}
        for program in programs.values():
            _require_fit(path, program, params)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; --mode=export writes one") from None
    except _DAMAGE as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a whole exported model ({what}); export it again") from None
    return ExportedModel(manifest, params, programs)


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
    return Manifest(**{**fields, "image_scale": (long, short), "buckets": buckets})


def _read_params(file: zipfile.ZipFile) -> dict[str, Any]:
    """The nested tree of what lies under params/."""
    params: dict[str, Any] = {}
    for name in file.namelist():
        if name.startswith("params/") and name.endswith(".npy"):
            *folders, leaf = name.removeprefix("params/").removesuffix(".npy").split("/")
            node = params
            for folder in folders:
                node = node.setdefault(folder, {})
            node[leaf] = np.load(io.BytesIO(file.read(name)), allow_pickle=False)
    return params


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


def _require_fit(path: Path, program: export.Exported, params: dict[str, Any]) -> None:
    """The parameters are those of the program, and the program is for this device."""
    (wanted, *_), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    if jax.tree.map(lambda x: (x.shape, x.dtype), wanted) != jax.tree.map(
        lambda x: (x.shape, x.dtype), params
    ):
        raise InputError(f"{path}: its parameters are not those of its programs; export it again")
    platform = jax.local_devices()[0].platform
    if {"gpu": "cuda"}.get(platform, platform) not in program.platforms:
        raise InputError(
            f"{path}: exported for {', '.join(program.platforms)}, not for {platform}; set "
            "JAX_PLATFORMS to one of them"
        )
