"""The network alone, from an image on the device to logits and deltas: jaxdet beside its peers.

    python -m benchmarks.forward

Same weights and images for all, whose outputs must agree.  jaxdet takes bytes and normalises
them; the others (`benchmarks/peers.py`) are given normalised floats.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import flops, peers
from benchmarks.setups import (
    load_config,
    on_device,
    parser,
    plain_images,
    plain_model,
    plain_precision,
    random_batch,
    random_params,
)
from benchmarks.timing import (
    compared,
    keep_freed_memory,
    paired_medians,
    save,
    shown,
    torch,
    use_same_threads,
)
from jaxdet.config import Config
from jaxdet.detectors.rpn import apply, build_network
from jaxdet.models.layers import fold_norms
from jaxdet.models.rpn_head import Outputs
from jaxdet.programs import compiler_options
from jaxdet.types import Batch, Images, Params

# Largest difference between the two, next to the output's standard deviation.
TOLERANCE = {"float32": 1e-3 if jax.default_backend() == "cpu" else 0.1, "bfloat16": 0.5}


def compiled_forward(config: Config, params: Params, batch: Batch) -> jax.stages.Compiled:
    """The program of (params, images)."""
    network = build_network(config.model, config.train)

    def forward(params: Params, images: Images) -> Outputs:
        with jax.default_matmul_precision(config.train.matmul_precision):
            return apply(network, params, images)

    options = compiler_options(config.train.precision)
    return jax.jit(forward, compiler_options=options).lower(params, batch.images).compile()


def peers_forward(
    config: Config, params: Params, batch: Batch, kinds: Sequence[str]
) -> dict[str, Callable[[], list]]:
    """The same by others; each returns all logits, then all deltas."""
    if torch is None:
        return {}
    model, images = plain_model(config, params), plain_images(batch.image, config)
    precision = partial(plain_precision, config)
    return {kind: partial(peers.forward(kind, model, images, precision), images) for kind in kinds}


def check(ours: Outputs, theirs: list, tolerance: float) -> None:
    """Both say the same.

    Raises:
        AssertionError: they do not.
    """
    for a, b in zip([*ours.logits, *ours.deltas], theirs, strict=True):
        b = b.cpu().numpy() if hasattr(b, "cpu") else b
        error = np.abs(np.asarray(a).reshape(b.shape) - b).max() / b.std()
        assert error < tolerance, f"outputs differ by {error:.1e} standard deviations"


class Case(NamedTuple):
    """What a row of the table is measured on."""

    model: str
    size: tuple[int, int]  # height, width
    batch: int
    precision: str
    repeats: int
    peak: float  # of the machine, in operations per second
    kinds: Sequence[str] | None = None  # of peers; None: all that there are

    def drawn(self) -> tuple[Config, Params, Batch]:
        """Returns the config, and weights and images for every side."""
        config = load_config(self.model, self.precision)
        return config, random_params(config), random_batch(self.size, self.batch)

    def peers(self, known: tuple[str, ...]) -> Sequence[str]:
        """Returns those of `known` to measure beside."""
        return peers.available(known, self.precision) if self.kinds is None else self.kinds


def measure(case: Case) -> dict[str, Any]:
    """Returns one row."""
    config, params, batch = case.drawn()
    placed, weights = on_device(batch), jax.device_put(fold_norms(params))
    program = compiled_forward(config, weights, placed)
    others = peers_forward(config, params, batch, case.peers(peers.FORWARD))
    for thunk in others.values():
        check(program(weights, placed.images), thunk(), TOLERANCE[case.precision])
    ours = {"jaxdet": lambda: jax.block_until_ready(program(weights, placed.images))}
    row = compared(paired_medians({**others, **ours}, case.repeats))
    return finished(case, row, flops.forward_operations(config.model, case.size), program)


def finished(
    case: Case, row: dict[str, float], operations: int, program: jax.stages.Compiled
) -> dict[str, Any]:
    """The row with `operations` (an image's) of all images and our share of the peak, printed."""
    (height, width), total = case.size, case.batch * operations
    share, text = total / row["jaxdet"] / case.peak, shown(row, *peers.FORWARD)
    print(f"{case.model:24} {height:4} x {width:4} {case.batch:3} {case.precision} {text}")
    print(f"  {total / 1e9:.0f} GFLOP: {share:.0%} of {case.peak / 1e9:.0f} GFLOP/s", flush=True)
    return {
        "model": case.model,
        "size": list(case.size),
        "batch": case.batch,
        "precision": case.precision,
        **row,
        "gflop": total / 1e9,
        "xla_gflop": flops.xla_operations(program) / 1e9,
        "peak_gflops": case.peak / 1e9,
        "jaxdet_share": share,
    }


SMALL = ("rpn_r50_fpn_1x", (256, 320), 8)


def run_table(
    name: str,
    measure: Callable[[Case], dict[str, Any]],
    about: str,
    repeats: int,
    more: Sequence[tuple[str, tuple[int, int], int]] = (),
) -> None:
    """Measures the models that the command line names, prints and saves the table.

    Args:
        name: of the file in `results/`; a precision other than float32 is added to it.
        measure: gives a row, as `measure` here does.
        about: what the command does, for its help.
        repeats: timed rounds, unless the command line says otherwise.
        more: (model, size, batch) beside those of the command line.
    """
    args = parser(about, repeats=repeats).parse_args()
    keep_freed_memory()
    use_same_threads()
    peak = flops.measured_peak(args.precision, load_config(args.config[0]).train.matmul_precision)
    cases = [*((n, (args.size[0], args.size[1]), args.batch) for n in args.config), *more]
    save(
        name if args.precision == "float32" else f"{name}-{args.precision}",
        [measure(Case(*case, args.precision, args.repeats, peak)) for case in cases],
    )


if __name__ == "__main__":
    run_table("forward", measure, __doc__.splitlines()[0], repeats=7, more=[SMALL])
