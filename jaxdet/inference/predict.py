"""`--mode=predict`: results of images that files hold, on as many hosts as there are."""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from jaxdet import console
from jaxdet.checkpoint import checksum
from jaxdet.config import Config, results_fields, warn_of_other_results
from jaxdet.configs.base import COCO_CLASSES, COCO_IDS
from jaxdet.data.buckets import Size
from jaxdet.data.images import PART, Stored, find_images, in_parts, stored_in
from jaxdet.distributed import data_mesh, of_all_hosts, print_once
from jaxdet.errors import InputError
from jaxdet.files import make_folder, write_json
from jaxdet.inference.evaluate import ImagePredictions
from jaxdet.inference.predictor import load_predictor
from jaxdet.inference.shards import Record, Shards
from jaxdet.inference.single import Result
from jaxdet.inference.visualize import draw_result, write_png

MAX_NAME = 250  # bytes, to which `.json` is added
ROUND = 20  # parts whose images are listed at a time, and loaded by the same processes


def run_predict(
    config: Config,
    checkpoint: str | Path,
    images: Sequence[str],
    out: Path,
    *,
    draw: bool = False,
    top: int | None = None,
    threshold: float = 0.0,
    shards: str | None = None,
) -> None:
    """Writes `<out>/<name>.json`, and `.png` if asked, for every image; or `shards` of them.

    `images` are as of `find_images`, names as of `result_names`; of each image at most `top`
    results are kept, from the score `threshold` on.  Each host does its share.  Of a detector with
    classes the JSON also has `labels` (0-based), `class_names`, COCO RLE `masks` where it finds
    them, and `category_ids`: COCO's own where all classes are COCO's, else labels from 1 on.

    Images that cannot be read are left out, or in a shard have their `error`; each is a line at the
    end, and the exit code is 2.
    """
    if not 0 <= threshold <= 1 or (top is not None and top < 1):
        raise InputError("--threshold: a score from 0 to 1; --top: a number from 1 on")
    if draw and shards:
        raise InputError("--draw: takes a file for every image; leave out --draw or --shards")
    paths = find_images(images)
    share = -(-len(paths) // jax.process_count())
    parts = in_parts(paths, PART if shards else min(PART, share))
    files: _Files | Shards | None = None if shards else _Files(out, parts, draw)
    make_folder(out)
    predictor = load_predictor(config, checkpoint, data_mesh(jax.local_devices()))
    warn_of_other_results(checkpoint, config)
    with ExitStack() as held:
        if files is None:
            about: Record = {"checkpoint": f"{checksum(predictor.params):08x}"}
            about |= {"top": top, "threshold": threshold, **results_fields(config)}
            files = held.enter_context(Shards(out, shards or "jsonl", parts, about))
        run = ImagePredictions(predictor, top, threshold)
        unreadable = _run(run, parts, files, _category_ids(config.model.class_names))
    images_done = sum(of_all_hosts(run.images))
    if images_done:
        kind = "detections" if config.model.class_names else "proposals"
        rate = images_done / max(of_all_hosts(round(1e3 * sum(run.seconds.values())))) * 1e3
        print_once(f"wrote {kind} of {images_done} images to {out}/ ({rate:.1f} images/s)")
    for line in unreadable:
        console.complain(line)
    if unreadable:
        sys.exit(2)


def _run(
    run: ImagePredictions,
    parts: Sequence[Sequence[str]],
    files: "_Files | Shards",
    categories: Sequence[int],
) -> list[str]:
    """Does this host's share of what is not there yet; returns a line for each unreadable image."""
    share = range(jax.process_index(), len(parts), jax.process_count())
    wanted = [part for part in share if files.is_wanted(part)]
    if len(wanted) < len(share):
        print_once(f"going on: {len(share) - len(wanted)} of {len(share)} files are there")
    unreadable = []
    for first in range(0, len(wanted), ROUND):
        images, owners, ends = list[Stored](), list[int](), list[int]()
        for part in wanted[first : first + ROUND]:
            images += stored_in(parts[part])
            files.begin(part, len(images) - len(owners))
            owners += [part] * (len(images) - len(owners))
            ends.append(len(images))
        for place, size, found in run.of(images, ends):
            image = images[place]
            record = _record(image.name, size, found, categories)
            if line := files.write(owners[place], record, image, found):
                unreadable.append(line)
    return unreadable


class _Files:
    """A file, or two, for every image."""

    def __init__(self, out: Path, parts: Sequence[Sequence[str]], draw: bool) -> None:
        paths = [image.name for part in parts for image in stored_in(part)]
        self._out, self._draw = out, draw
        self._names = dict(zip(paths, result_names(paths), strict=True))
        sources = {os.path.realpath(path) for path in paths} if draw else ()
        for name in self._names.values() if draw else ():
            drawing = out / f"{name}.png"
            if os.path.realpath(drawing) in sources:
                line = "a drawing would replace this image; set another --out"
                raise InputError(f"{drawing}: {line}")

    def is_wanted(self, part: int) -> bool:
        return True

    def begin(self, part: int, images: int) -> None:
        pass

    def write(self, part: int, record: Record, image: Stored, found: Result | str) -> str | None:
        if isinstance(found, str):
            return found
        path = self._out / self._names[image.name]
        if len(os.fsencode(path.name)) > MAX_NAME:
            return f"{image.name}: its name is too long for its results'; rename it"
        if path.parent != self._out:
            make_folder(path.parent)
        if self._draw:
            write_png(path.with_name(f"{path.name}.png"), draw_result(image.read(), found))
        write_json(path.with_name(f"{path.name}.json"), record)
        return None


def result_names(paths: Sequence[str]) -> list[str]:
    """Returns what the results of images are called, all different.

    That is an image's name without its suffix; where two images share one, it is every image's path
    below the folder that holds them all, suffix included.
    """
    stems = [Path(path).stem for path in paths]
    if len({*stems}) == len(stems):
        return stems
    whole = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - resolves `..`, not links
    top = os.path.commonpath([os.path.dirname(path) for path in whole])  # noqa: PTH120
    names = [os.path.relpath(path, top) for path in whole]
    seen = set[str]()
    for path, name in zip(paths, names, strict=True):
        if name in seen:
            raise InputError(f"{path}: is there twice; leave one out, or write --shards")
        seen.add(name)
    return names


def _record(name: str, size: Size, found: Result | str, categories: Sequence[int]) -> Record:
    record: dict[str, Any] = {"image": name, "width": size[1], "height": size[0]}
    if isinstance(found, str):
        return {"image": name, "error": found}
    record["boxes"] = found.boxes.astype(float).round(3).tolist()
    record["scores"] = found.scores.astype(float).round(6).tolist()
    if found.labels is not None:
        record["labels"] = found.labels.tolist()
        record["category_ids"] = [categories[label] for label in record["labels"]]
        record["class_names"] = list(found.class_names or ())
    if found.masks is not None:
        record["masks"] = found.masks
    return record


def _category_ids(names: tuple[str, ...]) -> list[int]:
    """Returns COCO's ids of its own classes, and 1, 2, ... of others, in the order of labels."""
    own = {name: i for i, name in enumerate(names, 1)}
    coco = dict(zip(COCO_CLASSES, COCO_IDS, strict=True))
    ids = coco if own.keys() <= coco.keys() else own
    return [ids[name] for name in names]
