"""Runs what `--mode=export` wrote.  Needs that file alone: no config file, no model code.

The file is a zip without compression:

    manifest.json             the fields of `Manifest`
    params/<path>.npy         one float32 array per parameter, such as
                              params/backbone/conv1/kernel.npy
    programs/<H>x<W>.jax      one serialized `jax.export.Exported` (StableHLO) per bucket

A program maps (params, image, image_size, scale) to (boxes, scores, labels, valid), and of a
detector of masks to (boxes, scores, labels, valid, masks):

    params: the arrays, as nested dicts
    image: uint8 (float32 where `resize` is float) [B, H, W, 3], RGB, images in the upper left
        corners of their rows
    image_size: int32 [B, 2], (height, width) of each; pixels beyond have no influence
    scale: float32 [B, 2], (x, y): its pixels per pixel of the original image
    boxes: float32 [B, N, 4], x1 y1 x2 y2 of the config's convention, in pixels of `image`, best
        first
    scores: float32 [B, N]; zero where not valid
    labels: int32 [B, N], positions in `class_names`; 0 throughout without classes
    valid: bool [B, N]; the valid ones come first
    masks: float32 [B, N, S, S], probabilities over each box, pasted as `mask_paste` says

for any B.  `single.result_of` makes results of them.  JAX promises to read programs for six months
after the release that wrote them.
"""

import io
import zipfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import msgspec
import numpy as np
from jax import export

from jaxdet.config import Config
from jaxdet.data.buckets import Size, bucket_of, bucket_sizes
from jaxdet.errors import InputError
from jaxdet.files import open_regular
from jaxdet.inference.single import detect
from jaxdet.ops.boxes import CONVENTIONS
from jaxdet.types import Batch, Predictions

MANIFEST = "manifest.json"

Side = Annotated[int, msgspec.Meta(ge=1, le=8192)]  # pixels, as in a config
# Checking one takes milliseconds; `bucket_sizes` gives 11 at most.
Buckets = Annotated[tuple[tuple[Side, Side], ...], msgspec.Meta(min_length=1, max_length=64)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a program does not say about itself; fields are named as in the config's parts."""

    format: Literal["jaxdet-exported"] = "jaxdet-exported"
    format_version: Literal[2] = 2
    name: str  # of the config
    image_scale: tuple[Side, Side]  # bounds of an image's long and short side, in pixels
    resize: Literal["opencv", "pillow", "float"] = "opencv"  # these three as in `DataConfig`
    box_scale: Literal["nominal", "actual"] = "nominal"
    pad_multiple: Literal[1, 32] = 32
    convention: str = "mmdet1"  # these two as in `ModelConfig`
    class_names: tuple[str, ...] = ()
    drop_empty: bool = False  # these two as in `DetectionConfig`
    mask_paste: Literal["whole", "centres", "border"] = "whole"
    buckets: Buckets  # smallest first; an image goes into the first it fits
    jaxdet: str  # version that wrote the file
    jax: str

    def config(self) -> Config:
        """Returns a config of what is known here."""
        known = msgspec.structs.asdict(self)  # each part takes the fields that it has
        name = known.pop("name")  # `DataConfig` has another
        parts = {"model": known, "data": known, "detections": known}
        return msgspec.convert({"name": name, **parts}, Config)


def program_member(bucket: Size) -> str:
    """Returns the name of a bucket's program within the file."""
    return f"programs/{bucket[0]}x{bucket[1]}.jax"


class ExportedModel:
    """Finds objects in images on the first device; compiles once per bucket and batch size."""

    def __init__(
        self, manifest: Manifest, params: dict[str, Any], programs: dict[Size, export.Exported]
    ) -> None:
        self.manifest = manifest
        self._config = manifest.config()
        self._params = jax.device_put(params, jax.local_devices()[0])
        self._programs = {k: jax.jit(program.call) for k, program in programs.items()}

    def __call__(self, image: Any, rle: bool = False) -> Any:
        """Returns the `Result` of an image, as `Predictor` does; of several, a list."""
        return detect(image, self._config, self.manifest.buckets, self.predict, rle)

    def predict(self, batch: Batch) -> Predictions:
        """Returns predictions (NumPy) of images of one bucket, in pixels of the resized images.

        Of the batch, only `image`, `image_size` and `scale` are read.  Raises `InputError` if the
        file has no program for images of this size.
        """
        height, width = batch.image.shape[1:3]
        program = self._programs.get((height, width))
        if program is None:
            known = ", ".join(f"{h} x {w}" for h, w in self._programs)
            raise InputError(f"batch: of {height} x {width} pixels; there are programs for {known}")
        arguments = self._params, batch.image, batch.image_size, batch.scale
        return Predictions(*jax.device_get(program(*arguments)))


def load_exported(path: str | Path) -> ExportedModel:
    """Returns the model in a file that `--mode=export` wrote.

    Raises `InputError` if it is missing, damaged, of another version, or not for this device.
    """
    try:
        with open_regular(path) as file:
            return _read(file)
    except InputError:
        raise
    except Exception as error:  # parsers raise whatever the bytes lead to
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: not a whole exported model that jax {jax.__version__} can run ({what}); "
            "export it again"
        ) from None


def _read(stream: io.BufferedReader) -> ExportedModel:
    file = zipfile.ZipFile(stream)
    members = file.infolist()
    # Members that unpack to more than the file holds are a trap.
    unpacked, packed = sum(x.file_size for x in members), stream.seek(0, io.SEEK_END)
    if unpacked > packed or any(x.compress_type for x in members):
        raise ValueError("its members are compressed")
    manifest = msgspec.json.decode(file.read(MANIFEST), type=Manifest)
    for size in bucket_sizes(manifest.image_scale):
        bucket_of(size, manifest.buckets)  # an image of any shape finds one
    if manifest.convention not in CONVENTIONS:
        raise ValueError(f"boxes of {manifest.convention}, which is no convention")
    programs = {
        bucket: export.deserialize(bytearray(file.read(program_member(bucket))))
        for bucket in manifest.buckets
    }
    first = programs[manifest.buckets[0]]
    (wanted, *_), _ = jax.tree.unflatten(first.in_tree, first.in_avals)
    params = jax.tree_util.tree_map_with_path(partial(_read_array, file), wanted)
    platform = jax.local_devices()[0].platform
    for bucket, program in programs.items():
        # Raises where it takes other parameters or images, or returns something else.
        image = jax.ShapeDtypeStruct((1, *bucket, 3), program.in_avals[-3].dtype)
        image_size, scale = (jax.ShapeDtypeStruct((1, 2), t) for t in (np.int32, np.float32))
        found = jax.eval_shape(program.call, params, image, image_size, scale)
        program.mlir_module()  # raises where its text is damaged
        if Predictions(*found).valid.dtype != bool:
            raise ValueError("its programs return something else")
        if {"gpu": "cuda"}.get(platform, platform) not in program.platforms:
            raise ValueError(f"exported for {', '.join(program.platforms)}, not for {platform}")
    return ExportedModel(manifest, params, programs)


def _read_array(file: zipfile.ZipFile, path: Any, wanted: jax.core.ShapedArray) -> np.ndarray:
    name = f"params/{jax.tree_util.keystr(path, simple=True, separator='/')}.npy"
    array = np.lib.format.read_array(io.BytesIO(file.read(name)), allow_pickle=False)
    if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {wanted}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return array
