"""RoIAlign and its gradient: jaxdet beside torchvision's C++ (on a GPU: its kernels).

    python -m benchmarks.roi_align

Boxes of log-uniform sides on an 800 x 1088 image, read with torchvision's conventions from four
levels of 256 channels or, as C4 does, from one of 1024.  Both must give the same.  torchvision's
side is `MultiScaleRoIAlign`, which assigns levels as well, and autograd's backward pass alone.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.matching import objects
from benchmarks.timing import (
    compared,
    paired_medians,
    save,
    shown,
    torch,
    torch_device,
    use_same_threads,
)
from jaxdet.ops.boxes import CONVENTIONS
from jaxdet.ops.roi_align import RoIAlign, roi_align, roi_levels

try:
    from torchvision.ops import MultiScaleRoIAlign
except ImportError:  # then jaxdet is measured alone
    MultiScaleRoIAlign = None

SIZE = (800, 1088)
PYRAMID, C4 = ((4, 8, 16, 32), 256), ((16,), 1024)
# What reads, strides and channels, boxes, bins per axis, points per bin and axis (0: adaptive).
CASES = (
    ("boxes, test", PYRAMID, 1000, 7, 2),
    ("boxes, test", PYRAMID, 1000, 7, 0),
    ("boxes, training", PYRAMID, 512, 7, 2),
    ("boxes, training", PYRAMID, 512, 7, 0),
    ("masks", PYRAMID, 128, 14, 2),
    ("masks", PYRAMID, 128, 14, 0),
    ("C4, test", C4, 300, 14, 2),
    ("C4, training", C4, 512, 14, 2),
    ("C4, training", C4, 512, 14, 0),
)


def ours(maps: list[np.ndarray], boxes: np.ndarray, strides: tuple, size: int, points: int):
    """Bins [n, p, q, c], the gradient of `bins * cotangent` in the maps, and what times each."""
    roi = RoIAlign(points=points, min_side=1.0, level_rule="torchvision")
    convention = CONVENTIONS["torchvision"]

    def align(maps, boxes):
        levels = roi_levels(boxes, len(strides), roi, convention)
        return roi_align(maps, boxes, levels, jnp.array([SIZE]), strides, size, roi, convention)

    forward = jax.jit(align)
    backward = jax.jit(lambda maps, boxes, dy: jax.vjp(lambda m: align(m, boxes), maps)[1](dy)[0])
    arguments = [jnp.asarray(m) for m in maps], jnp.asarray(boxes)[None]
    bins = forward(*arguments)
    dy = jnp.asarray(cotangent(bins.shape))
    gradient = backward(*arguments, dy)
    return (
        (bins[0], gradient),
        lambda: jax.block_until_ready(forward(*arguments)),
        lambda: jax.block_until_ready(backward(*arguments, dy)),
    )


def theirs(maps: list[np.ndarray], boxes: np.ndarray, strides: tuple, size: int, points: int):
    """The same of torchvision."""
    names = [str(i) for i in range(len(strides))]
    align = MultiScaleRoIAlign(names, size, points)
    inputs = [torch.from_numpy(m.transpose(0, 3, 1, 2)).contiguous() for m in maps]
    inputs = [m.to(torch_device()).requires_grad_() for m in inputs]
    rois = [torch.from_numpy(boxes).to(torch_device())]

    def forward():
        bins = align(dict(zip(names, inputs, strict=True)), rois, [SIZE])
        return _done(bins)

    def without_gradient():
        with torch.inference_mode():
            return forward()

    bins = forward()
    n, channels = bins.shape[:2]
    dy = torch.from_numpy(cotangent((n, size, size, channels))).permute(0, 3, 1, 2)
    dy = dy.contiguous().to(torch_device())

    def backward():
        return _done(torch.autograd.grad(bins, inputs, dy, retain_graph=True, allow_unused=True))

    found = bins.detach().cpu().permute(0, 2, 3, 1).numpy()
    gradient = [g.cpu().permute(0, 2, 3, 1).numpy() for g in backward()]
    return (found, gradient), without_gradient, backward


def _done(result):
    if torch_device() == "cuda":
        torch.cuda.synchronize()
    return result


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """Noise; float32."""
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def measure(
    what: str, model: tuple, count: int, size: int, points: int, repeats: int
) -> list[dict]:
    """Two rows, forward and backward."""
    strides, channels = model
    rng = np.random.default_rng(0)
    maps = [
        rng.standard_normal((1, SIZE[0] // s, SIZE[1] // s, channels), np.float32) for s in strides
    ]
    boxes = objects(count) * np.float32([SIZE[1] / 1344, 1, SIZE[1] / 1344, 1])
    arguments = maps, boxes, strides, size, points
    found, *thunks = ours(*arguments)
    beside = MultiScaleRoIAlign is not None
    if beside:
        expected, *others = theirs(*arguments)
        np.testing.assert_allclose(found[0], expected[0], atol=2e-6)
        for a, b in zip(found[1], expected[1], strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)  # sums over hundreds of boxes
    rows = []
    for i, direction in enumerate(("forward", "backward")):
        programs = {"torchvision": others[i]} if beside else {}
        row = compared(paired_medians({**programs, "jaxdet": thunks[i]}, repeats))
        print(f"{what:16} {direction:9}{count:5}{size:5}{points:5} {shown(row, 'torchvision')}")
        case = {"what": what, "direction": direction, "boxes": count, "bins": size}
        rows.append({**case, "points": points, **row})
    return rows


def main() -> None:
    """Measures, prints and saves the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if torch:
        use_same_threads()
    print(
        f"what             direction  boxes size points {'torchvision':>9} {'jaxdet':>13}   ratio"
    )
    save("roi_align", [row for case in CASES for row in measure(*case, args.repeats)])


if __name__ == "__main__":
    main()
