"""Turns `results/*.json` into one page, `results/README.md`.

python -m benchmarks.page
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
DEVICES = ("cpu", "gpu")

Row = Mapping[str, Any]


class Figure(NamedTuple):
    """A line of the first table."""

    what: str
    script: str  # and the name of its results
    command: str  # for a GPU
    pick: Callable[[Row], bool]  # the row that holds it
    targets: tuple[str, str]  # CPU, GPU


def _network(name: str) -> Callable[[Row], bool]:
    return lambda row: row["model"].startswith(name) and row["size"] == [800, 1088]


R50, X101 = _network("rpn_r50"), _network("rpn_x101")


def _rois(what: str, direction: str) -> Callable[[Row], bool]:
    return lambda row: (row["what"], row["direction"], row["points"]) == (what, direction, 2)


FIGURES = (
    Figure("R-50-FPN forward, 800 x 1088", "forward", "forward", R50, (">= 1.05", ">= 1.3")),
    Figure("X-101-32x4d-FPN forward", "forward", "forward", X101, (">= 0.7", ">= 1.0")),
    Figure("R-50-FPN training step", "train_step", "train_step", R50, (">= 1.0", ">= 1.5")),
    Figure("X-101-32x4d-FPN training step", "train_step", "train_step", X101, (">= 0.7", ">= 1.0")),
    Figure(
        "NMS, 2000 boxes",
        "nms",
        "nms",
        lambda row: row["boxes"] == 2000 and row["images"] == 1,
        (">= 1.0", ">= 1.0"),
    ),
    Figure(
        "NMS, 12000 boxes",
        "nms",
        "nms",
        lambda row: row["boxes"] == 12000,
        (">= 3", ">= 1.0"),
    ),
    Figure(
        "matching, 268,569 anchors x 100 boxes",
        "matching",
        "matching",
        lambda row: row["boxes"] == 100,
        (">= 8", ">= 3"),
    ),
    Figure(
        "RoIAlign, 1000 boxes, 7 x 7",
        "roi_align",
        "roi_align",
        _rois("boxes, test", "forward"),
        (">= 1.0", ">= 1.0"),
    ),
    Figure(
        "RoIAlign's gradient, 512 boxes, 7 x 7",
        "roi_align",
        "roi_align",
        _rois("boxes, training", "backward"),
        (">= 1.0", ">= 1.0"),
    ),
    Figure(
        "end to end, files to boxes", "inference", "inference", lambda row: True, (">= 1.0", "")
    ),
    Figure("training loader", "loader", "loader", lambda row: True, (">= 1.0", "")),
    Figure(
        "Faster R-CNN R-50-FPN, files to detections",
        "detectors-inference",
        "detectors inference",
        lambda row: True,
        (">= 1.0", ">= 1.0"),
    ),
    Figure(
        "Faster R-CNN R-50-FPN, training step",
        "detectors-train_step",
        "detectors train_step",
        lambda row: True,
        (">= 1.0", ">= 1.0"),
    ),
)

# Figures of a GPU alone: what, results, command, field of the R-50 row, target, unit.
GPU_ONLY = (
    (
        "R-50-FPN training step, bf16: share of the measured bf16 peak",
        "train_step-bfloat16",
        "train_step --precision bfloat16",
        "jaxdet_share",
        ">= 40 %",
    ),
    (
        "images per second, files to boxes",
        "inference",
        "inference --images 500 --workers 8",
        "jaxdet",
        ">= 88 (5 x 17.7)",
    ),
)


def read(name: str, device: str) -> dict[str, Any] | None:
    """A file of results, or None where nothing was measured."""
    path = RESULTS / f"{name}-{device}.json"
    return json.loads(path.read_text()) if path.exists() else None


def measured(figure: Figure, device: str) -> str:
    """The ratio, or how to get it."""
    results = read(figure.script, device)
    rows = [row for row in results["rows"] if figure.pick(row)] if results else []
    if rows and "ratio" in rows[0]:
        return f"**{rows[0]['ratio']:.2f}**"
    return f"not measured: `python -m benchmarks.{figure.command}`"


def ratios() -> Iterable[str]:
    """The table of what has to be shown."""
    yield "| PyTorch's time / jaxdet's | CPU: target | CPU | GPU: target | GPU |"
    yield "| --- | --- | --- | --- | --- |"
    for figure in FIGURES:
        cpu, gpu = (measured(figure, device) for device in DEVICES)
        yield f"| {figure.what} | {figure.targets[0]} | {cpu} | {figure.targets[1]} | {gpu} |"
    for what, name, command, field, target in GPU_ONLY:
        results = read(name, "gpu")
        found = f"not measured: `python -m benchmarks.{command}`"
        if results:
            value = results["rows"][0][field]
            found = f"**{value:.0%}**" if field.endswith("share") else f"**{value:.1f}**"
        yield f"| {what} | | | {target} | {found} |"


def table(rows: list[Row], columns: Mapping[str, Callable[[Row], str]]) -> Iterable[str]:
    """Rows as Markdown."""
    yield "| " + " | ".join(columns) + " |"
    yield "| " + " | ".join("---" for _ in columns) + " |"
    for row in rows:
        yield "| " + " | ".join(cell(row) for cell in columns.values()) + " |"


def _seconds(*names: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        found = [row[name] for name in names if name in row]
        if not found:
            return ""
        return f"{found[0]:.2f} s" if found[0] >= 1 else f"{found[0] * 1e3:.2f} ms"

    return cell


def _ratio(row: Row) -> str:
    return f"{row['ratio']:.2f}" if "ratio" in row else ""


def _percent(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row[name]:.0%}" if name in row else ""


NETWORK: dict[str, Callable[[Row], str]] = {
    "model": lambda row: row["model"],
    "image": lambda row: "{} x {}".format(*row["size"]),
    "batch": lambda row: str(row["batch"]),
    "PyTorch": _seconds("torch"),
    "jaxdet": _seconds("jaxdet"),
    "ratio": _ratio,
    "GFLOP": lambda row: f"{row['gflop']:.0f}",
    "XLA counts": lambda row: f"{row['xla_gflop']:.0f}",
    "peak GFLOP/s": lambda row: f"{row['peak_gflops']:.0f}",
    "share, PyTorch": _percent("torch_share"),
    "share, jaxdet": _percent("jaxdet_share"),
}
BOXES: dict[str, Callable[[Row], str]] = {
    "boxes": lambda row: str(row["boxes"]),
    "the other": _seconds("C++", "C++ on the host", "torchvision", "torch"),
    "jaxdet": _seconds("jaxdet"),
    "ratio": _ratio,
}
RATES: dict[str, Callable[[Row], str]] = {
    "processes": lambda row: str(row["workers"]),
    "PyTorch, images/s": lambda row: f"{row['torch']:.2f}" if "torch" in row else "",
    "jaxdet, images/s": lambda row: f"{row['jaxdet']:.2f}",
    "ratio": _ratio,
}
DETECTOR: dict[str, Callable[[Row], str]] = {
    "images": lambda row: str(row["images"]),
    "torchvision": _seconds("torchvision"),
    "jaxdet": _seconds("jaxdet"),
    "ratio": _ratio,
}
# Title, results, what is said of them, columns.
SECTIONS = (
    ("Forward", "forward", "", NETWORK),
    ("Forward, bf16", "forward-bfloat16", "", NETWORK),
    ("Training step", "train_step", "", NETWORK),
    ("Training step, bf16", "train_step-bfloat16", "", NETWORK),
    (
        "Growth with image and batch",
        "growth",
        "",
        {"what": lambda row: row["what"].replace("_", " "), **NETWORK},
    ),
    (
        "NMS",
        "nms",
        "Beside a sequential C++ loop, or torchvision on a GPU.",
        {"images": lambda row: str(row["images"]), **BOXES},
    ),
    (
        "Matching",
        "matching",
        "Of 268,569 anchors. PyTorch's table of 1000 boxes would take some 6 GB.",
        BOXES,
    ),
    (
        "RoIAlign",
        "roi_align",
        "On 800 x 1088, from four levels of 256 channels (C4: one of 1024). Points are per bin and "
        "axis; 0: the side of the box in cells / bins, rounded up.",
        {
            "what": lambda row: row["what"],
            "direction": lambda row: row["direction"],
            "bins": lambda row: "{0} x {0}".format(row["bins"]),
            "points": lambda row: str(row["points"]),
            **BOXES,
        },
    ),
    ("End to end", "inference", "From JPEGs to boxes in their own pixels.", RATES),
    (
        "Faster R-CNN R-50-FPN, files to detections",
        "detectors-inference",
        "Seconds per image, beside torchvision's own model.",
        DETECTOR,
    ),
    (
        "Faster R-CNN R-50-FPN, training step",
        "detectors-train_step",
        "On 800 x 1088, beside torchvision's own model.",
        DETECTOR,
    ),
    (
        "Training loader",
        "loader",
        "From JPEGs to batches of two; PyTorch's side is the reference's recipe.",
        RATES,
    ),
    (
        "Annotations",
        "annotations",
        "A generated file of COCO's size, each in a process of its own; memory is the largest "
        "resident, and what the process held before.",
        {
            "side": lambda row: row["side"],
            "file": lambda row: f"{row['file_mb']:.0f} MB",
            "boxes": lambda row: str(row["boxes"]),
            "time": _seconds("seconds"),
            "memory": lambda row: f"{row['memory_gb']:.2f} GB",
            "before": lambda row: f"{row['memory_before_gb']:.2f} GB",
        },
    ),
)


def machine(record: Row) -> str:
    """Where and when, on a line."""
    versions = record["versions"]
    parts = [record["date"], f"{record['cpu']}, {record['cores']} cores"]
    if record["devices"]["kind"] != "cpu":
        parts.append(f"{record['devices']['count']} x {record['devices']['kind']}")
    parts.append(f"jax {versions['jax']}, Python {versions['python']}")
    if "torch" in record:
        parts.append(f"torch {record['torch']}, {record['torch_threads']} threads")
    if "torchvision" in record:
        parts.append(f"torchvision {record['torchvision']}")
    parts.append(f"load {record['load']}")
    if "nice" in record:
        parts.append(f"niceness {record['nice']}")
    return "; ".join(parts) + "."


def sections() -> Iterable[str]:
    """Everything that was measured."""
    for title, name, text, columns in SECTIONS:
        for device in DEVICES:
            results = read(name, device)
            if results is None:
                continue
            command = name.replace("-bfloat16", " --precision bfloat16")
            command = command.replace("detectors-", "detectors ")
            yield f"\n## {title}, {device.upper()}\n"
            yield f"`python -m benchmarks.{command}`. {text}".rstrip() + "\n"
            yield from table(results["rows"], columns)
            yield f"\n{machine(results['environment'])}"


INTRODUCTION = """# Measured side by side

Made by `python -m benchmarks.page` from the JSON files beside it. All times are medians of runs
that take turns with PyTorch's in one process, on the same threads, weights and images; only
annotations are loaded by a process for each side, whose memory is measured too. "Not
measured" means that no such machine was at hand; the command beside it measures there.

PyTorch's network is `benchmarks/plain_rpn.py`, whose outputs, losses and gradients the tests hold
against jaxdet's. On a CPU both compute in float32; on a GPU in TensorFloat-32, eager PyTorch.

Operations are counted from the network's shapes, two for a multiply-add, as direct sums; tests
hold them against PyTorch's and XLA's counters. Winograd's convolution needs fewer, so a share of
the peak may exceed 100 %. "XLA counts" is what XLA says of its own program, where loops count
once. The peak is that of a large square matrix product, the better of the two, in the same
process. "Load" is the machine's load average at the end of the run, the benchmark's own included:
if it is above the number of cores, other work ran beside; at niceness -20 it had to stand back.
"""


def main() -> None:
    """Writes the page."""
    lines = [INTRODUCTION, *ratios(), *sections()]
    path = RESULTS / "README.md"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("\n".join(lines) + "\n")
    unfinished.replace(path)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
