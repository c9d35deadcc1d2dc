"""`report.html`: a run on one page that needs no other file, no network and no scripts.

It is made from what the work directory holds (`metrics.jsonl`, `eval.json`, `proposals.png`,
`environment.json`), so it can be made again at any time.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2

from jaxdet.config import Config
from jaxdet.environment import environment, peak_memory
from jaxdet.errors import InputError
from jaxdet.files import write_json, write_whole
from jaxdet.hosts import is_first_host
from jaxdet.inference.html import sections
from jaxdet.inference.html.curves import training
from jaxdet.inference.html.page import page
from jaxdet.training.metric_writer import read_rows

FILE = "report.html"
MAX_IMAGE_BYTES = 1_500_000  # of the embedded image, before base64 adds a third
MAX_IMAGE_WIDTH = 1800  # pixels


def write_report(workdir: Path, config: Config, trained: bool = False) -> None:
    """Writes `report.html` into a work directory, on the first host only, whole or not at all.

    Args:
        workdir: of a run at any stage; what it does not hold yet is left out of the page.
        config: the run's.
        trained: this process did the training, so its machine and its peak memory are the run's;
            they are kept in `environment.json`, for when the page is made again elsewhere.

    Raises:
        InputError: a file cannot be read or written.
    """
    if not is_first_host():
        return
    path = workdir / FILE
    if trained:
        write_json(workdir / "environment.json", this_machine(sections.TRAINED))
    try:
        text = render(workdir, config)
    except OSError as error:
        raise InputError(f"{path}: cannot be made: {error}") from error
    # A path in a config may hold bytes that are no text.
    write_whole(path, text.encode("utf-8", "replace"))


def this_machine(process: str) -> dict[str, Any]:
    """`environment()`, and what this process did and needed.

    Args:
        process: what it did, `sections.TRAINED` or `sections.REPORTED`.

    Returns:
        The fields of `environment()`, `process`, and `peak_memory_gb` so far of what `memory_of`
        says: `device` or `process`.
    """
    peak, owner = peak_memory()
    return {**environment(), "process": process, "peak_memory_gb": peak, "memory_of": owner}


def render(workdir: Path, config: Config) -> str:
    """The page's text; see `write_report`."""
    rows = [row for _, row in read_rows(workdir / "metrics.jsonl") if row is not None]
    steps, evaluations = (_by_step(rows, kind) for kind in ("train", "eval"))
    result = _read_json(workdir / "eval.json")
    machine = _read_json(workdir / "environment.json") or this_machine(sections.REPORTED)
    image = _read_image(workdir / "proposals.png")
    return page(
        f"{config.name}: {sections.headline(result)}",
        sections.head(config, steps, evaluations, result, machine),
        "<main>",
        sections.recall(result) if result else "",
        training(steps, evaluations) if rows else "",
        sections.images(*image) if image else "",
        sections.speed(result) if result else "",
        sections.configuration(config),
        sections.machine(machine),
        "</main>",
        sections.foot(machine),
    )


def _by_step(rows: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Rows of a kind in the order of their steps, the last written one of each."""
    found = {row["step"]: row for row in rows if row["kind"] == kind}
    return [found[step] for step in sorted(found)]


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); delete it or evaluate again") from error


def _read_image(path: Path) -> tuple[str, int, int] | None:
    """A data URI of the image as a JPEG of bounded size, its width and its height."""
    if not path.exists():
        return None
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path}: not an image; delete it or evaluate again")
    width = MAX_IMAGE_WIDTH
    while True:
        scale = min(1.0, width / image.shape[1])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        if len(data) <= MAX_IMAGE_BYTES:
            uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
            return uri, small.shape[1], small.shape[0]
        width = small.shape[1] * 3 // 4
