"""A detection data set in a few flat arrays: 118,000 images take some 80 MB.

`K` is annotations of all images, `n` of one.  Lengths are in pixels before any resizing.
"""

import dataclasses
import functools
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8

from jaxdet.data.image import read_image
from jaxdet.data.masks import Segmentations
from jaxdet.errors import InputError
from jaxdet.ops.boxes import MMDET1, BoxConvention, from_xywh


class Given(NamedTuple):
    """Proposals that a file gives for all images, best first; boxes in original pixels."""

    boxes: Float32[np.ndarray, "G 4"]
    offsets: Int64[np.ndarray, " images_plus_1"]  # those of i: offsets[i] to offsets[i + 1]
    limit: int  # of an image

    def of(self, index: int) -> Float32[np.ndarray, "n 4"]:
        """Returns those of an image."""
        return self.boxes[slice(*self.offsets[index : index + 2])]


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Images in ascending order of their ids, annotations grouped by image."""

    source: str  # the file or folder that messages name
    image_dir: Path
    file_names: tuple[str, ...]
    image_ids: Int64[np.ndarray, " images"]
    heights: Int32[np.ndarray, " images"]
    widths: Int32[np.ndarray, " images"]
    offsets: Int64[np.ndarray, " images_plus_1"]  # annotations of i: offsets[i] to offsets[i + 1]
    annotation_ids: Int64[np.ndarray, " K"]
    category_ids: Int64[np.ndarray, " K"]
    xywh: Float64[np.ndarray, "K 4"]  # COCO's x, y, width, height
    area: Float64[np.ndarray, " K"]
    iscrowd: Bool[np.ndarray, " K"]
    ignore: Bool[np.ndarray, " K"]
    class_names: tuple[str, ...] = ()  # of labels 0, 1, ...; none where objects are all alike
    class_ids: Int64[np.ndarray, " C"] = field(default_factory=lambda: np.zeros(0, np.int64))
    labels: Int32[np.ndarray, " K"] | None = None  # None: there are no classes
    segmentations: Segmentations | None = None  # `K`; None: not loaded
    file_order: Int64[np.ndarray, " images"] | None = None  # places in the annotation file
    given: Given | None = None
    convention: BoxConvention = MMDET1  # of the boxes that it gives

    def __len__(self) -> int:
        return len(self.file_names)

    def path_of(self, index: int) -> Path:
        """Returns the image's file."""
        return self.image_dir / self.file_names[index]

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes an image as RGB.

        Raises `InputError` if the file is absent, unreadable, not of the annotated size, or a link
        that leaves the image folder.
        """
        path = self.path_of(index)
        # A data set from elsewhere may bring links along, to whatever lies on this machine.
        if not Path(os.path.realpath(path)).is_relative_to(self._real_dir):
            raise InputError(f"{path}: a link out of {self.image_dir}; put the image itself there")
        return read_image(path, (int(self.heights[index]), int(self.widths[index])))

    def rows(self, index: int) -> slice:
        """Returns the places in `K` of an image's annotations."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def boxes_of(self, index: int) -> Float32[np.ndarray, "n 4"]:
        """Returns the boxes that training uses."""
        rows = self.rows(index)
        return self.corners(self.xywh[rows][self.usable[rows]])

    def labels_of(self, index: int) -> Int32[np.ndarray, " n"]:
        """Returns the labels of `boxes_of`; zeros where there are no classes."""
        rows = self.rows(index)
        labels = np.zeros(rows.stop - rows.start) if self.labels is None else self.labels[rows]
        return labels[self.usable[rows]].astype(np.int32)

    def corners(self, xywh: Float64[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
        """Returns x, y, width, height as corners, in float64 rounded once (the reference)."""
        return from_xywh(xywh, self.convention).astype(np.float32)

    def masks_of(self, index: int) -> Iterator[UInt8[np.ndarray, "h w"]]:
        """Yields the bitmaps of `boxes_of`, one at a time; see `bitmap`."""
        rows = self.rows(index)
        for place in np.flatnonzero(self.usable[rows]).tolist():
            yield self.bitmap(rows.start + place)

    def bitmap(self, place: int) -> UInt8[np.ndarray, "h w"]:
        """Returns the bitmap (1 in the object, 0 elsewhere) of the annotation at a place of `K`.

        Raises `InputError` if its segmentation is no mask of its image.
        """
        assert self.segmentations is not None, "loaded without masks"
        owner = int(np.searchsorted(self.offsets, place, side="right")) - 1
        try:
            size = int(self.heights[owner]), int(self.widths[owner])
            return self.segmentations.bitmap(place, size)
        except ValueError as error:
            raise InputError(
                f"{self.source}: annotation {self.annotation_ids[place]} of image "
                f"{self.image_ids[owner]} ({size[1]} x {size[0]} pixels): "
                f"segmentation is no mask: {error}"
            ) from None

    def keeping(self, kept: Bool[np.ndarray, " K"]) -> "Dataset":
        """Returns the same images with some of their annotations."""
        if kept.all():
            return self
        names = "annotation_ids", "category_ids", "xywh", "area", "iscrowd", "ignore", "labels"
        columns = {k: x[kept] for k in names if (x := getattr(self, k)) is not None}
        segmentations = self.segmentations and self.segmentations.keeping(kept)
        offsets = np.append(0, np.cumsum(kept))[self.offsets]
        return dataclasses.replace(self, **columns, offsets=offsets, segmentations=segmentations)

    @functools.cached_property
    def summary(self) -> str:
        """Returns a line that other images, annotations or given proposals do not have."""
        sums, given = 0, () if self.given is None else self.given[:2]
        columns = self.image_ids, self.sizes, self.offsets, self.category_ids, self.xywh
        for column in (*columns, *given):
            sums = zlib.crc32(np.ascontiguousarray(column).tobytes(), sums)
        return f"{len(self)} images, {len(self.xywh)} annotations ({sums:08x})"

    @functools.cached_property
    def usable(self) -> Bool[np.ndarray, " K"]:
        """Annotations to train on: no crowd, not ignored, some area, at least a pixel each way."""
        large = (self.area > 0) & (self.xywh[:, 2:] >= 1).all(axis=1)
        return large & ~self.iscrowd & ~self.ignore

    @property
    def sizes(self) -> Int64[np.ndarray, "images 2"]:
        """(height, width) per image."""
        return np.stack([self.heights, self.widths], axis=1).astype(np.int64)

    @property
    def num_annotations(self) -> Int64[np.ndarray, " images"]:
        """Annotations per image, unusable ones included."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Int64[np.ndarray, " K"]:
        """The position of each annotation's image."""
        return np.repeat(np.arange(len(self)), self.num_annotations)

    @property
    def num_boxes(self) -> Int64[np.ndarray, " images"]:
        """Boxes per image that training uses."""
        return np.bincount(self.owners[self.usable], minlength=len(self))

    @functools.cached_property
    def _real_dir(self) -> Path:
        return Path(os.path.realpath(self.image_dir))
