"""Writes the zoo's table as Markdown, published figures beside measured ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdet.zoo.published import (
    DETECTRON2,
    MMDET2,
    PUBLISHED,
    ROWS,
    TOLERANCE,
    TORCHVISION,
    Row,
)

HEADER = (
    *("Backbone", "Style", "Lr schd", "Mem (GB)", "Train time (s/iter)", "Inf time (fps)"),
    *("AR1000", "Download"),
)
# The first is as the 2018 document has it, without a title.
TABLES = {
    "": ROWS,
    "mmdet 2, AR1000 by fast recall:\n\n": MMDET2,
    "detectron2, AR1000 by its own recall, which is fast recall:\n\n": DETECTRON2,
    "torchvision, which publishes no recall of its RPNs:\n\n": TORCHVISION,
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
  nothing was published, by fast recall below others; `-` without a checkpoint or on a part of
  them.  Bold, with the difference, where it is more than {tolerance} off the published figure.
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
    of_row: dict[str, Measured] = {}
    others: list[tuple[str, ...]] = []
    for line in measured:
        rows = {row.zoo_name: row for row in PUBLISHED if row.config == line["config"]}
        if rows:
            of_row[line["checkpoint"] if line["checkpoint"] in rows else next(iter(rows))] = line
        else:
            others += [(line["config"], *"-" * (len(HEADER) - 1)), _measured_cells(line, None)]
    texts = []
    for title, published in TABLES.items():
        lines = []
        for row in published:
            lines.append(_cells(row))
            if row.zoo_name in of_row:
                lines.append(_measured_cells(of_row[row.zoo_name], row))
        texts.append(title + _centred(lines))
    return "\n\n".join([*texts, *([_centred(others)] if others else [])])


def _centred(lines: list[tuple[str, ...]]) -> str:
    """Returns a table of Markdown below the header."""
    lines = [HEADER, *lines]
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
    figures = (row.memory, row.train_time, row.fps, row.ar1000, link)
    published = ("-" if figure is None else str(figure) for figure in figures)
    return (row.backbone, row.style, row.schedule, *published)


def _measured_cells(line: Measured, row: Row | None) -> tuple[str, ...]:
    recall = row.recall if row else "AR1000"
    digits = {"memory_gb": 1, "seconds_per_step": 3, "images_per_second": 1, recall: 1}
    figures = ["-" if line[k] is None else f"{line[k]:.{n}f}" for k, n in digits.items()]
    if row and row.ar1000 and line[recall] is not None and row.differs(line[recall]):
        figures[-1] = f"**{figures[-1]} ({line[recall] - row.ar1000:+.2f})**"
    name, parameters = f"measured, {line['images_per_step']} images/step", line["checkpoint"]
    return (name, "", "", *figures, parameters or "fresh parameters")
