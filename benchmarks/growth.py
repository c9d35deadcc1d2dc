"""How forward and training step grow with the image and the batch: jaxdet beside PyTorch.

    python -m benchmarks.growth

NMS and matching over numbers of boxes: `benchmarks.nms`, `benchmarks.matching`.
"""

import argparse

from benchmarks import flops, forward, train_step
from benchmarks.setups import load_config
from benchmarks.timing import save, use_same_threads

CASES = (
    ((256, 320), 1),
    ((480, 640), 1),
    ((640, 864), 1),
    ((800, 1344), 1),
    ((256, 320), 2),
    ((256, 320), 4),
    ((256, 320), 8),
)


def main() -> None:
    """Measures, prints and saves the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="rpn_r50_fpn_1x", help="name of a file in configs/")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    use_same_threads()
    precision = load_config(args.config).train.matmul_precision
    peak = flops.measured_peak("float32", precision)
    rows = []
    for what in (forward, train_step):
        print(what.__name__)
        for size, count in CASES:
            settings = "float32", args.repeats, peak, ("eager",)
            row = what.measure(forward.Case(args.config, size, count, *settings))
            rows.append({"what": what.__name__.split(".")[-1], **row})
    save("growth", rows)


if __name__ == "__main__":
    main()
