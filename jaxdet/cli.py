"""Training, evaluation and prediction as commands."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdet import console
from jaxdet.config import Config, warn_of_other_results
from jaxdet.configs.base import COCO_CLASSES, COCO_IDS
from jaxdet.data.dataset import from_files
from jaxdet.distributed import data_mesh, print_once
from jaxdet.errors import InputError
from jaxdet.files import make_folder, reported, write_json
from jaxdet.inference import results as report
from jaxdet.inference.evaluate import DatasetPredictions, evaluate
from jaxdet.inference.given import load_splits
from jaxdet.inference.predictor import load_predictor
from jaxdet.inference.report import write_report
from jaxdet.inference.visualize import draw_result, write_png
from jaxdet.training.loop import Stopped, TrainingError, train
from jaxdet.training.workdir import OWN, checkpoint_name, claim_workdir, require_same_results

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp")
}


def run_train(
    config: Config, workdir: Path, checkpoint: str, proposals: Sequence[str] = ()
) -> None:
    """Trains in `workdir`, which must be new or of the same config; see `train`."""
    try:
        with claim_workdir(workdir, config):
            result = train(config, workdir, checkpoint, proposals)
    except Stopped as stop:
        console.fail(str(stop), stop.code)
    except TrainingError as error:
        console.fail(str(error), 1)
    measured = f", eval.json and {report.kind_of(result)}.png" if result else ""
    print_once(f"wrote {workdir}/report.html{measured}")


def run_eval(
    config: Config,
    workdir: Path,
    checkpoint: str | Path,
    save_proposals: bool,
    split: str = "val",
    proposals: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluates a checkpoint on a split; writes into `workdir`, or into its folder `train`."""
    (dataset,) = load_splits(config, (split,), proposals)
    predictor = load_predictor(config, checkpoint, data_mesh())
    name = checkpoint_name(workdir, checkpoint)
    if name != OWN:  # which is refused if its run had other settings
        warn_of_other_results(checkpoint, config)
    folder = workdir if split == "val" else workdir / split
    with claim_workdir(workdir, config, name):
        require_same_results(folder, checkpoint=name, data=dataset.summary)
        make_folder(folder)
        result, found = evaluate(predictor, dataset)
        result["checkpoint"] = name
        report.write_evaluation(folder, result, dataset, found)
        if not len(dataset.xywh):
            print_once(f"{dataset.source}: no annotations, so there is nothing to measure")
        write_report(folder, config)
        if save_proposals:
            report.write_proposals(folder, dataset, found)
        return result


def run_predict(
    config: Config, checkpoint: str | Path, images: list[str], out: Path, draw: bool
) -> None:
    """Writes `<out>/<image's name>.json`, and `.png` if asked, for every image.

    Of a detector with classes the JSON also has `labels` (0-based), `class_names`, COCO RLE `masks`
    where it finds them, and `category_ids`: COCO's own where all classes are COCO's, else labels
    from 1 on.

    Images that cannot be read are left out; each is a line at the end, and the exit code is 2.
    """
    if jax.process_count() > 1:
        raise InputError("--mode=predict: runs on one host; start it there, without --distributed")
    paths = _images(images)
    sources = {path.resolve() for path in paths}
    for drawing in (out / f"{path.stem}.png" for path in paths if draw):
        if drawing.resolve() in sources:
            raise InputError(f"{drawing}: a drawing would replace this image; set another --out")
    dataset, unreadable = from_files(paths)
    make_folder(out)
    predictor = load_predictor(config, checkpoint, data_mesh())
    warn_of_other_results(checkpoint, config)
    run = DatasetPredictions(predictor, dataset, skip_unreadable=True)
    categories = _category_ids(config.model.class_names)
    for i, found in run:
        path = dataset.path_of(i)
        record = {
            "image": str(path),
            "width": int(dataset.widths[i]),
            "height": int(dataset.heights[i]),
            "boxes": found.boxes.astype(float).round(3).tolist(),
            "scores": found.scores.astype(float).round(6).tolist(),
        }
        if found.labels is not None:
            record["labels"] = found.labels.tolist()
            record["category_ids"] = [categories[label] for label in record["labels"]]
            record["class_names"] = list(found.class_names or ())
        if found.masks is not None:
            record["masks"] = found.masks
        if draw:
            write_png(out / f"{path.stem}.png", draw_result(dataset.read(i), found))
        write_json(out / f"{path.stem}.json", record)
    if run.images:
        rate, kind = run.speed()["images_per_second"], "detections" if categories else "proposals"
        print_once(f"wrote {kind} of {run.images} images to {out}/ ({rate:.1f} images/s)")
    unreadable += run.unreadable
    for line in unreadable:
        console.complain(line)
    if unreadable:
        sys.exit(2)


def _category_ids(names: tuple[str, ...]) -> list[int]:
    """Returns COCO's ids of its own classes, and 1, 2, ... of others, in the order of labels."""
    own = {name: i for i, name in enumerate(names, 1)}
    coco = dict(zip(COCO_CLASSES, COCO_IDS, strict=True))
    ids = coco if own.keys() <= coco.keys() else own
    return [ids[name] for name in names]


def _images(names: list[str]) -> list[Path]:
    """Returns the images named, and those in the folders named."""
    if not names:
        raise InputError("--images: names no image; give files or folders, separated by commas")
    paths = [path for name in names for path in _images_in(Path(name))]
    firsts: dict[str, Path] = {}
    for path in paths:
        if (first := firsts.setdefault(path.stem, path)) is not path:
            raise InputError(
                f"{path}: has the name of {first}, so their results would share a file; predict "
                "them with a different --out"
            )
    return paths


def _images_in(name: Path) -> list[Path]:
    with reported(name, "read"):
        if name.is_file():
            return [name]
        inside = sorted(name.iterdir())
        images = [p for p in inside if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()]
    if not images:
        raise InputError(f"{name}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    taken = {*images}
    if others := [p.name for p in inside if p not in taken and not p.name.startswith(".")]:
        said = ", ".join([*others[:3], "..."] if len(others) > 3 else others)
        console.complain(f"{name}: passes over {len(others)} folders and other files ({said})")
    return images
