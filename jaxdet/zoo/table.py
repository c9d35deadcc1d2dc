"""Writes the zoo's table as Markdown, published figures beside measured ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdet.zoo.published import ROWS, TOLERANCE, ZOO_SITES, Row

HEADER: tuple[str, ...] = (
    "Backbone",
    "Style",
    "Lr schd",
    "Mem (GB)",
    "Train time (s/iter)",
    "Inf time (fps)",
)
HEADER += ("AR1000", "Download")
PAGE = """\
# The zoo, measured

{table}

The lines with a link or a name are as published, on 8 V100s with 16 images per step.  A line that
begins with `measured` is what this machine gave for the config above it:

- Mem: the largest amount of memory that any device held while training; where devices keep no
  count (a processor), the largest resident memory of the process.
- Train time: seconds per step, waiting for the loader included and compiling not.
- Inf time: images per second over all devices, with loading and post-processing.
- AR1000: by the COCO API over all validation images; `-` without a checkpoint or on a part of
  them.  Bold, with the difference, where it is more than {tolerance} off the published figure.
- Download: the parameters that were used.

| | |
| --- | --- |
{environment}
"""

Measured = Mapping[str, Any]  # what `measure.measure` returns


def markdown_table(measured: Sequence[Measured] = ()) -> str:
    """Returns the published table, every cell centred; '-' where nothing is published.

    Measured lines stand below their rows, or at the end where nothing was published.
    """
    waiting = {line["config"]: line for line in measured}
    lines: list[tuple[str, ...]] = [HEADER]
    for row in ROWS:
        lines.append(_cells(row))
        if row.config in waiting:
            lines.append(_measured_cells(waiting.pop(row.config), row))
    for name, line in waiting.items():
        lines += [(name, *"-" * (len(HEADER) - 1)), _measured_cells(line, None)]
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
    link = f"[model]({ZOO_SITES[0]}/{row.path})" if row.path else None
    figures = (row.memory, row.train_time, row.fps, row.ar1000, link)
    published = ("-" if figure is None else str(figure) for figure in figures)
    return (row.backbone, row.style, row.schedule, *published)


def _measured_cells(line: Measured, row: Row | None) -> tuple[str, ...]:
    digits = {"memory_gb": 1, "seconds_per_step": 3, "images_per_second": 1, "AR1000": 1}
    figures = ["-" if line[k] is None else f"{line[k]:.{n}f}" for k, n in digits.items()]
    if row and line["AR1000"] is not None and row.differs(line["AR1000"]):
        figures[-1] = f"**{figures[-1]} ({line['AR1000'] - row.ar1000:+.2f})**"
    name, parameters = f"measured, {line['images_per_step']} images/step", line["checkpoint"]
    return (name, "", "", *figures, parameters or "fresh parameters")
