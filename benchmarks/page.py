"""Turns `results/*.json` into one page, `results/README.md`.

python -m benchmarks.page
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
DEVICES = {"cpu-amd": "CPU, AMD", "cpu-intel": "CPU, Intel", "gpu": "GPU"}

Row = Mapping[str, Any]


class Figure(NamedTuple):
    """A line of the first table: the ratio of the first row that has these fields."""

    what: str
    results: str
    fields: Row
    cpu: str  # targets
    gpu: str


ABSENT = "not measured"
LARGE, SMALL = [800, 1088], [256, 320]
R50 = {"model": "rpn_r50_fpn_1x", "size": LARGE}
X101 = {"model": "rpn_x101_32x4d_fpn_1x", "size": LARGE}
ROIS = {"what": "boxes, test", "direction": "forward", "points": 2}
ROIS_BACK = {"what": "boxes, training", "direction": "backward", "points": 2}
FIGURES = (
    Figure("R-50-FPN forward, 800 x 1088", "forward", R50, ">= 1.1", ">= 1.3"),
    Figure("R-50-FPN forward, 8 of 256 x 320", "forward", {"size": SMALL}, ">= 1.0", ">= 1.0"),
    Figure("X-101-32x4d-FPN forward", "forward", X101, ">= 1.0", ">= 1.0"),
    Figure("R-50-FPN training step", "train_step", R50, ">= 1.3", ">= 1.5"),
    Figure("X-101-32x4d-FPN training step", "train_step", X101, ">= 1.0", ">= 1.0"),
    Figure("end to end, files to boxes", "inference", {}, ">= 1.2", ""),
    Figure("training loader", "loader", {}, ">= 1.0", ""),
    Figure("NMS, 2000 boxes", "nms", {"boxes": 2000, "images": 1}, ">= 1.0", ">= 1.0"),
    Figure("NMS, 12000 boxes", "nms", {"boxes": 12000}, ">= 3", ">= 1.0"),
    Figure("matching, 268,569 anchors x 100 boxes", "matching", {"boxes": 100}, ">= 8", ">= 3"),
    Figure("RoIAlign, 1000 boxes, 7 x 7", "roi_align", ROIS, ">= 1.0", ">= 1.0"),
    Figure("RoIAlign's gradient, 512 boxes, 7 x 7", "roi_align", ROIS_BACK, ">= 1.0", ">= 1.0"),
    Figure("Faster R-CNN, files to detections", "detectors-inference", {}, ">= 1.0", ">= 1.0"),
    Figure("Faster R-CNN, training step", "detectors-train_step", {}, ">= 1.0", ">= 1.0"),
)
# Of a GPU alone: what, results, flags for it, field of the first row, how it is written, target.
SHARE = "R-50-FPN training step, bf16: share of the measured bf16 peak"
MANY, TARGET = " --images 500 --workers 8", ">= 88 (5 x 17.7)"
GPU_ONLY = (
    (SHARE, "train_step-bfloat16", "", "jaxdet_share", "**{:.0%}**", ">= 40 %"),
    ("images per second, files to boxes", "inference", MANY, "jaxdet", "**{:.1f}**", TARGET),
)

TIME = "time"  # seconds, or images per second where the section says so
# Every column that a table may have, in order: title, field, how it is written.
COLUMNS = (
    ("what", "what", "{}"),
    ("model", "model", "{}"),
    ("side", "side", "{}"),
    ("direction", "direction", "{}"),
    ("convolutions", "kind", "{}"),
    ("how many", "count", "{}"),
    ("image", "size", "{0[0]} x {0[1]}"),
    ("batch", "batch", "{}"),
    ("images", "images", "{}"),
    ("processes", "workers", "{}"),
    ("file", "file_mb", "{:.0f} MB"),
    ("bins", "bins", "{0} x {0}"),
    ("points", "points", "{}"),
    ("boxes", "boxes", "{}"),
    ("C++", "C++", TIME),
    ("C++", "C++ on the host", TIME),
    ("torchvision", "torchvision", TIME),
    ("PyTorch", "torch", TIME),
    ("PyTorch", "eager", TIME),
    ("channels last", "channels_last", TIME),
    ("torch.compile", "compile", TIME),
    ("ONNX Runtime", "onnxruntime", TIME),
    ("OpenVINO", "openvino", TIME),
    ("jaxdet", "jaxdet", TIME),
    ("ratio", "ratio", "{:.2f}"),
    ("time", "seconds", TIME),
    ("memory", "memory_gb", "{:.2f} GB"),
    ("before", "memory_before_gb", "{:.2f} GB"),
    ("GFLOP", "gflop", "{:.0f}"),
    ("XLA counts", "xla_gflop", "{:.0f}"),
    ("peak GFLOP/s", "peak_gflops", "{:.0f}"),
    ("share, jaxdet", "jaxdet_share", "{:.0%}"),
    ("forward", "forward", TIME),
    ("share of the peak", "forward_share", "{:.0%}"),
    ("kernel's gradient", "kernel", TIME),
    ("its share", "kernel_share", "{:.0%}"),
    ("input's gradient", "input", TIME),
    ("its share", "input_share", "{:.0%}"),
)

RATE = "Images per second"
# Title, results, what is said of them.
SECTIONS = (
    ("Forward", "forward", ""),
    ("Forward, bf16", "forward-bfloat16", ""),
    ("Training step", "train_step", ""),
    ("Training step, bf16", "train_step-bfloat16", ""),
    ("Where the time goes", "parts", "Each convolution alone; those of one kind are added up."),
    (
        "Peak memory of training",
        "memory",
        "Each side in a process of its own; before: with the libraries and the weights.",
    ),
    ("Growth with image and batch", "growth", ""),
    ("NMS", "nms", "Beside a sequential C++ loop, or torchvision on a GPU."),
    (
        "Matching",
        "matching",
        "Of 268,569 anchors. PyTorch's table of 1000 boxes would take some 6 GB.",
    ),
    (
        "RoIAlign",
        "roi_align",
        "On 800 x 1088, from four levels of 256 channels (C4: one of 1024). Points are per bin and "
        "axis; 0: the side of the box in cells / bins, rounded up.",
    ),
    ("End to end", "inference", f"{RATE}, from JPEGs to boxes in their own pixels."),
    (
        "Faster R-CNN R-50-FPN, files to detections",
        "detectors-inference",
        "Seconds per image, beside torchvision's own model.",
    ),
    (
        "Faster R-CNN R-50-FPN, training step",
        "detectors-train_step",
        "On 800 x 1088, beside torchvision's own model.",
    ),
    (
        "Training loader",
        "loader",
        f"{RATE}, from JPEGs to batches of two; PyTorch's side is the reference's recipe.",
    ),
    (
        "Annotations",
        "annotations",
        "A generated file of COCO's size, each in a process of its own; memory is the largest "
        "resident, and what the process held before.",
    ),
)


def read(name: str, device: str) -> dict[str, Any] | None:
    """A file of results, or None where nothing was measured."""
    path = RESULTS / f"{name}-{device}.json"
    return json.loads(path.read_text()) if path.exists() else None


def command(name: str) -> str:
    """What measures the results of a name."""
    script = name.replace("-bfloat16", " --precision bfloat16").replace("detectors-", "detectors ")
    return f"python -m benchmarks.{script}"


def measured(figure: Figure, device: str) -> str:
    """The ratio, if there is one."""
    results = read(figure.results, device)
    for row in results["rows"] if results else []:
        if "ratio" in row and figure.fields.items() <= row.items():
            return f"**{row['ratio']:.2f}**"
    return ABSENT


def ratios() -> Iterable[str]:
    """The table of what has to be shown."""
    sides = "CPU: target | AMD | Intel | GPU: target | GPU"
    yield f"| the best other's time / jaxdet's | {sides} | measured by |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for figure in FIGURES:
        amd, intel, gpu = (measured(figure, device) for device in DEVICES)
        cells = figure.what, figure.cpu, amd, intel, figure.gpu, gpu
        yield f"| {' | '.join(cells)} | `{command(figure.results)}` |"
    for what, name, flags, field, form, target in GPU_ONLY:
        results = read(name, "gpu")
        found = form.format(results["rows"][0][field]) if results else ABSENT
        yield f"| {what} | | | | {target} | {found} | `{command(name)}{flags}` |"


def written(value: Any, form: str, rates: bool) -> str:
    """A cell's text."""
    if form != TIME:
        return form.format(value)
    if rates:
        return f"{value:.2f}"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def table(rows: list[Row], rates: bool) -> Iterable[str]:
    """Rows as Markdown, with the columns that any of them has."""
    columns = [column for column in COLUMNS if any(column[1] in row for row in rows)]
    yield "| " + " | ".join(title for title, _, _ in columns) + " |"
    yield "| " + " | ".join("---" for _ in columns) + " |"
    for row in rows:
        cells = (written(row[x], form, rates) if x in row else "" for _, x, form in columns)
        yield "| " + " | ".join(cells) + " |"


def machine(record: Row) -> str:
    """Where and when, on a line."""
    versions = record["versions"]
    parts = [record["date"], f"{record['cpu']}, {record['cores']} cores"]
    if record["devices"]["kind"] != "cpu":
        parts.append(f"{record['devices']['count']} x {record['devices']['kind']}")
    parts.append(f"jax {versions['jax']}, Python {versions['python']}")
    if "torch" in record:
        parts.append(f"torch {record['torch']}, {record['torch_threads']} threads")
    others = (("torchvision", "torchvision"), ("load", "load"), ("niceness", "nice"))
    parts += [f"{name} {record[field]}" for name, field in others if field in record]
    return "; ".join(parts) + "."


def sections() -> Iterable[str]:
    """Everything that was measured."""
    for title, name, text in SECTIONS:
        for device, shown in DEVICES.items():
            if results := read(name, device):
                yield f"\n## {title}, {shown}\n"
                yield f"`{command(name)}`. {text}".rstrip() + "\n"
                yield from table(results["rows"], RATE in text)
                yield f"\n{machine(results['environment'])}"


INTRODUCTION = """# Measured side by side

Made by `python -m benchmarks.page` from the JSON files beside it. All times are medians of runs
that take turns with the others' in one process, on the same threads, weights and images; where
memory is measured, each side has a process of its own. Forward, training step and end to end
are measured on a heap that keeps what is freed, for all sides alike (`keep_freed_memory` in
`benchmarks/timing.py`). A ratio is beside the best of the others: PyTorch's network eager, in
`channels_last` or by `torch.compile`, ONNX Runtime and OpenVINO, which fold batch norms when they
load. A table has the columns that were measured. "Not measured" means that no such machine was at
hand; the command measures anywhere.

PyTorch's network is `benchmarks/plain_rpn.py`, whose outputs, losses and gradients the tests hold
against jaxdet's. On a CPU both compute in float32; on a GPU in TensorFloat-32.

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
