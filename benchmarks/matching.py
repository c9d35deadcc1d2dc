"""Matching of anchors to boxes: jaxdet beside plain PyTorch.

    python -m benchmarks.matching

All anchors of an 800 x 1344 image (five levels), boxes of log-uniform sizes.  Both must
assign every anchor alike.
"""

from __future__ import annotations

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import (
    compared,
    paired_medians,
    save,
    shown,
    torch,
    torch_device,
    use_same_threads,
)
from jaxdet.ops.anchors import AnchorGrid, pyramid_anchors
from jaxdet.ops.matching import match

COUNTS = (1, 10, 30, 100, 300, 1000)
POSITIVE, NEGATIVE, FORCED = 0.7, 0.3, 0.3

# PyTorch holds several [boxes, anchors] and [boxes, anchors, 2] arrays at once; beyond this
# many pairs, some 6 GB.
MOST_PAIRS = 160_000_000


def torch_match(anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The same assignment over one table of all overlaps."""
    low = torch.maximum(boxes[:, None, :2], anchors[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], anchors[None, :, 2:])
    sides = (high - low + 1).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    box_area, anchor_area = (
        (x[:, 2] - x[:, 0] + 1) * (x[:, 3] - x[:, 1] + 1) for x in (boxes, anchors)
    )
    ious = shared / (box_area[:, None] + anchor_area[None] - shared)
    best, owner = ious.max(dim=0)
    assigned = torch.full_like(owner, -1)
    assigned[best < NEGATIVE] = 0
    positive = best >= POSITIVE
    assigned[positive] = owner[positive] + 1
    for i, top in enumerate(ious.max(dim=1).values):
        if top >= FORCED:
            assigned[ious[i] == top] = i + 1
    if anchors.is_cuda:
        torch.cuda.synchronize()
    return assigned


def objects(count: int, seed: int = 0) -> np.ndarray:
    """float32 `[count, 4]` inside the image."""
    rng = np.random.default_rng(seed)
    image = np.array([1344, 800])
    sides = np.exp(rng.uniform(np.log(12), np.log(0.7 * image), (count, 2)))
    corner = rng.uniform(0, image - sides)
    return np.concatenate([corner, corner + sides - 1], axis=1).astype(np.float32)


def measure(anchors: jax.Array, count: int, repeats: int) -> dict:
    """One row, after checking that both assign alike."""
    boxes = objects(count)
    program = jax.jit(partial(match, pos_iou=POSITIVE, neg_iou=NEGATIVE, min_pos_iou=FORCED))
    arguments = (anchors, jnp.ones(len(anchors), bool), jnp.asarray(boxes), jnp.ones(count, bool))
    thunks = {"jaxdet": lambda: jax.block_until_ready(program(*arguments))}
    if torch and count * len(anchors) <= MOST_PAIRS:
        tensors = [torch.tensor(np.asarray(x), device=torch_device()) for x in (anchors, boxes)]
        np.testing.assert_array_equal(program(*arguments), torch_match(*tensors).cpu())
        thunks = {"torch": lambda: torch_match(*tensors), **thunks}
    row = compared(paired_medians(thunks, repeats))
    print(f"{len(anchors):8} {count:6} {shown(row)}", flush=True)
    return {"anchors": len(anchors), "boxes": count, **row}


def main() -> None:
    """Measures, prints and saves the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    args = parser.parse_args()
    use_same_threads()
    levels = pyramid_anchors((800, 1344), AnchorGrid((4, 8, 16, 32, 64), (8,), (0.5, 1.0, 2.0)))
    anchors = jnp.concatenate(levels)
    print(f" anchors  boxes {'torch':>13} {'jaxdet':>13}   ratio")
    save("matching", [measure(anchors, count, args.repeats) for count in args.counts])


if __name__ == "__main__":
    main()
