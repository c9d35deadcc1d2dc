"""NMS: jaxdet beside a sequential C++ loop (on a GPU: beside torchvision's kernel).

    python -m benchmarks.nms

Boxes are clusters of near-duplicates in a 1333 x 800 image, as a network proposes them; the
same arrays for both, sorted by score.  On CPU both must keep the same boxes.
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
from jaxdet.ops.nms import nms

THRESHOLD = 0.7
COUNTS = (500, 1000, 2000, 4000, 8000, 12000)

# What a CPU implementation does: one pass over the pairs, skipping what is suppressed.
SOURCE = """
#include <torch/extension.h>
#include <algorithm>
#include <vector>

torch::Tensor sequential_nms(torch::Tensor boxes, double limit) {
  const float threshold = static_cast<float>(limit);
  const int64_t n = boxes.size(0);
  auto columns = boxes.t().contiguous();
  const float* x1 = columns.data_ptr<float>();
  const float *y1 = x1 + n, *x2 = y1 + n, *y2 = x2 + n;
  std::vector<float> area(n);
  for (int64_t i = 0; i < n; i++) area[i] = (x2[i] - x1[i] + 1) * (y2[i] - y1[i] + 1);
  auto keep = torch::ones({n}, torch::kBool);
  bool* kept = keep.data_ptr<bool>();
  for (int64_t i = 0; i < n; i++) {
    if (!kept[i]) continue;
    for (int64_t j = i + 1; j < n; j++) {
      if (!kept[j]) continue;
      const float w = std::min(x2[i], x2[j]) - std::max(x1[i], x1[j]) + 1;
      const float h = std::min(y2[i], y2[j]) - std::max(y1[i], y1[j]) + 1;
      const float shared = std::max(w, 0.f) * std::max(h, 0.f);
      if (shared / (area[i] + area[j] - shared) > threshold) kept[j] = false;
    }
  }
  return keep;
}
"""


def proposals(count: int, seed: int = 0, spread: float = 0.12) -> np.ndarray:
    """float32 `[count, 4]`: about twelve boxes around each object."""
    rng = np.random.default_rng(seed)
    objects = max(count // 12, 1)
    which = rng.integers(0, objects, count)
    centre = rng.uniform(0, (1333, 800), (objects, 2))[which]
    side = np.exp(rng.uniform(2.5, 6, (objects, 2)))[which]
    centre = centre + spread * side * rng.normal(size=(count, 2))
    side = side * np.exp(1.25 * spread * rng.normal(size=(count, 2)))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
    return boxes.clip(0, (1332, 799, 1332, 799)).astype(np.float32)


def reference(threshold: float = THRESHOLD):
    """`(name, function of a [n, 4] tensor, best first)`; the function returns once it is done."""
    if torch_device() == "cuda":
        theirs = torchvision_nms(threshold)
        if theirs is None:
            name, on_host = _sequential(threshold)
            return f"{name} on the host", lambda boxes: on_host(boxes.cpu()).to(boxes.device)

        def on_gpu(boxes: torch.Tensor) -> torch.Tensor:
            kept = theirs(boxes)
            torch.cuda.synchronize()
            return kept

        return "torchvision", on_gpu
    return _sequential(threshold)


def torchvision_nms(threshold: float):
    """A function of boxes, best first, by torchvision; None where it is not installed."""
    try:
        from torchvision.ops import nms as kernel
    except ImportError:
        return None

    def kept(boxes: torch.Tensor) -> torch.Tensor:
        scores = torch.arange(len(boxes), 0, -1, device=boxes.device, dtype=torch.float32)
        # Its boxes are as wide as x2 - x1; ours hold both corners.
        return kernel(boxes + boxes.new_tensor([0, 0, 1, 1]), scores, threshold)

    return kept


def _sequential(threshold: float):
    from torch.utils.cpp_extension import load_inline

    module = load_inline(
        "sequential_nms", SOURCE, functions=["sequential_nms"], extra_cflags=["-O3"]
    )
    return "C++", lambda boxes: module.sequential_nms(boxes, threshold)


def measure(count: int, repeats: int, images: int, beside: tuple | None) -> dict:
    """One row; `images` problems at once, which the reference takes one by one."""
    boxes = np.stack([proposals(count, seed) for seed in range(images)])
    ours = jax.jit(jax.vmap(partial(nms, threshold=THRESHOLD)))
    arguments = jnp.asarray(boxes), jnp.ones(boxes.shape[:2], bool)
    kept = np.asarray(ours(*arguments))
    thunks = {"jaxdet": lambda: jax.block_until_ready(ours(*arguments))}
    name = ""
    if beside:
        name, other = beside
        tensors = [torch.from_numpy(b).to(torch_device()) for b in boxes]
        if name.startswith("C++"):
            np.testing.assert_array_equal(kept, np.stack([other(t).cpu().numpy() for t in tensors]))
        thunks = {name: lambda: [other(tensor) for tensor in tensors], **thunks}
    row = compared(paired_medians(thunks, repeats))
    print(f"{images:6} {count:6} {kept.sum() // images:6} {shown(row, name)}", flush=True)
    return {"images": images, "boxes": count, "kept": int(kept.sum()), **row}


def main() -> None:
    """Measures, prints and saves the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    args = parser.parse_args()
    use_same_threads()
    beside = reference() if torch else None
    print(f"images  boxes   kept {beside[0] if beside else '':>13} {'jaxdet':>13}   ratio")
    cases = [(n, 1) for n in args.counts] + [(n, 8) for n in args.counts if n <= 2000]
    save("nms", [measure(n, args.repeats, images, beside) for n, images in cases])


if __name__ == "__main__":
    main()
