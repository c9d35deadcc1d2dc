"""Writes the zoo's table as Markdown, published figures beside measured ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdet.zoo.published import (
    DETECTORS,
    DETECTRON2,
    MMDET2,
    PUBLISHED,
    ROWS,
    TOLERANCE,
    TORCHVISION,
    Row,
)

_COLUMNS = ("Style", "Lr schd", "Mem (GB)", "Train time (s/iter)", "Inf time (fps)")
HEADER = ("Backbone", *_COLUMNS, "AR1000", "Download")
DETECTOR_HEADER = ("Detector", *_COLUMNS, "box AP", "mask AP", "Download")


def _detectors(system: str) -> tuple[Row, ...]:
    return tuple(row for row in DETECTORS if row.system == system)


# The first is as the 2018 document has it, without a title.
TABLES = {
    "": ROWS,
    "mmdet 2, AR1000 by fast recall:\n\n": MMDET2,
    "detectron2, AR1000 by its own recall, which is fast recall:\n\n": DETECTRON2,
    "torchvision, which publishes no recall of its RPNs:\n\n": TORCHVISION,
    "Detectors of 2018, without the figures of Fast R-CNN with masks on C4, where the document "
    "repeats Mask R-CNN's:\n\n": _detectors(""),
    "mmdet 2's detectors:\n\n": _detectors("mmdet2"),
    "detectron2's detectors:\n\n": _detectors("detectron2"),
    "torchvision's detectors:\n\n": _detectors("torchvision"),
}
PAGE = """\
# The zoo, measured

{table}

The lines with a link or a name are as published, on 8 V100s with 16 images per step.  A line that
begins with `measured` is what this machine gave for the config above it:

- Mem: the largest amount of memory that any device held while training; where devices keep no
  count (a processor), the largest resident memory of the process.
- Train time: seconds per step, waiting for the loader included and compiling not.
- Inf time: images per second over all devices, with loading and post-processing.
- AR1000: over all validation images, by the COCO API below rows of the first table and where
  nothing was published, by fast recall below others; box AP, mask AP: by the COCO API.  `-`
  without a checkpoint or on a part of the images.  Bold, with the difference, where it is more than
  {tolerance} off the published figure.
- Download: the parameters that were used.

| | |
| --- | --- |
{environment}
"""

Measured = Mapping[str, Any]  # what `measure.measure` returns


def markdown_table(measured: Sequence[Measured] = ()) -> str:
    """Returns the published tables, every cell centred; '-' where nothing is published.

    Measured lines stand below their rows, or in a table at the end where nothing was published.
    """
    of_row: dict[Row, Measured] = {}
    others: list[Measured] = []
    for line in measured:
        rows = {row.zoo_name: row for row in PUBLISHED if row.config == line["config"]}
        if rows:
            of_row[rows.get(line["checkpoint"]) or next(iter(rows.values()))] = line
        else:
            others.append(line)
    texts = []
    for title, published in TABLES.items():
        lines = []
        for row in published:
            lines.append(_cells(row))
            if row in of_row:
                lines.append(_measured_cells(of_row[row], row, [*row.figures]))
        header = HEADER if published[0].detector == "RPN" else DETECTOR_HEADER
        texts.append(title + _centred([header, *lines]))
    for header, figures in ((HEADER, ("AR1000",)), (DETECTOR_HEADER, ("box_AP", "mask_AP"))):
        own = [x for x in others if (x["detector"] != "rpn") == (header == DETECTOR_HEADER)]
        lines = [header]
        for line in own:
            lines += [
                (line["config"], *"-" * (len(header) - 1)),
                _measured_cells(line, None, figures),
            ]
        texts += [_centred(lines)] if own else []
    return "\n\n".join(texts)


def _centred(lines: list[tuple[str, ...]]) -> str:
    """Returns a table of Markdown; the first line is its header."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple(f":{'-' * (width - 2)}:" for width in widths))
    centred = ([f"{text:^{n}}" for text, n in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in centred)


def page(measured: Sequence[Measured]) -> str:
    """Returns Markdown: the table with measured lines, what they mean, and the machine."""
    facts = dict(measured[-1]["environment"])
    for name in ("devices", "versions"):
        facts[name] = ", ".join(f"{key} {value}" for key, value in facts[name].items())
    return PAGE.format(
        table=markdown_table(measured),
        tolerance=TOLERANCE,
        environment="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
    )


def _cells(row: Row) -> tuple[str, ...]:
    link = f"[{row.zoo_name if row.name else 'model'}]({row.urls[0]})" if row.file else None
    figures = (row.memory, row.train_time, row.fps, *row.figures.values(), link)
    published = ("-" if figure is None else str(figure) for figure in figures)
    kind = "" if row.detector == "RPN" else f"{row.detector}, "
    return (kind + row.backbone, row.style, row.schedule, *published)


def _measured_cells(line: Measured, row: Row | None, quality: Sequence[str]) -> tuple[str, ...]:
    digits = {"memory_gb": 1, "seconds_per_step": 3, "images_per_second": 1}
    off = row.difference(line) if row else {}
    figures = []
    for name in (*digits, *quality):
        text = "-" if line[name] is None else f"{line[name]:.{digits.get(name, 1)}f}"
        figures.append(f"**{text} ({off[name]:+.2f})**" if name in off else text)
    name, parameters = f"measured, {line['images_per_step']} images/step", line["checkpoint"]
    return (name, "", "", *figures, parameters or "fresh parameters")
