"""The network alone, from an image on the device to logits and deltas: jaxdet beside PyTorch.

    python -m benchmarks.forward

Same weights and images for both, whose outputs must agree.  jaxdet takes bytes and normalises
them; PyTorch is given normalised floats.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import flops
from benchmarks.setups import (
    load_config,
    on_device,
    parser,
    plain_images,
    plain_model,
    plain_precision,
    random_batch,
    random_params,
    wait,
)
from benchmarks.timing import compared, paired_medians, save, shown, torch, use_same_threads
from jaxdet.config import Config
from jaxdet.detectors.rpn import apply, build_network
from jaxdet.models.rpn_head import Outputs
from jaxdet.types import Batch, Images, Params

# Largest difference between the two, next to the output's standard deviation.
TOLERANCE = {"float32": 1e-3 if jax.default_backend() == "cpu" else 0.1, "bfloat16": 0.5}


def compiled_forward(config: Config, params: Params, batch: Batch) -> jax.stages.Compiled:
    """The program of (params, images)."""
    network = build_network(config.model, config.train)

    def forward(params: Params, images: Images) -> Outputs:
        with jax.default_matmul_precision(config.train.matmul_precision):
            return apply(network, params, images)

    return jax.jit(forward).lower(params, batch.images).compile()


def plain_forward(config: Config, params: Params, batch: Batch) -> Callable[[], Any]:
    """The same in PyTorch; returns its outputs."""
    model, images = plain_model(config, params), plain_images(batch.image, config)

    def forward() -> Any:
        with torch.inference_mode(), plain_precision(config):
            outputs = model(images)
        wait()
        return outputs

    return forward


def check(ours: Outputs, theirs: Any, tolerance: float) -> None:
    """Both say the same.

    Raises:
        AssertionError: they do not.
    """
    for name, levels, others in zip(("logits", "deltas"), ours, theirs, strict=True):
        for a, b in zip(levels, others, strict=True):
            b = b.cpu().numpy()
            error = np.abs(np.asarray(a).reshape(b.shape) - b).max() / b.std()
            assert error < tolerance, f"{name} differ by {error:.1e} standard deviations"


def measure(
    name: str, size: tuple[int, int], count: int, precision: str, repeats: int, peak: float
) -> dict[str, Any]:
    """One row; `peak` in operations per second."""
    config = load_config(name, precision)
    params, batch = random_params(config), random_batch(size, count)
    placed, weights = on_device(batch), jax.device_put(params)
    program = compiled_forward(config, weights, placed)
    thunks = {"jaxdet": lambda: jax.block_until_ready(program(weights, placed.images))}
    if torch is not None:
        theirs = plain_forward(config, params, batch)
        check(program(weights, placed.images), theirs(), TOLERANCE[precision])
        thunks = {"torch": theirs, **thunks}
    row = compared(paired_medians(thunks, repeats))
    total = count * flops.forward_operations(config.model, size)
    return finished(name, size, count, precision, row, total, peak, program)


def finished(
    name: str,
    size: tuple[int, int],
    count: int,
    precision: str,
    row: dict[str, float],
    total: float,
    peak: float,
    program: jax.stages.Compiled,
) -> dict[str, Any]:
    """The row with operations and shares of the peak, printed."""
    sides = {side: row[side] for side in ("jaxdet", "torch") if side in row}
    shares = {f"{side}_share": total / seconds / peak for side, seconds in sides.items()}
    text = ", ".join(f"{side} {shares[f'{side}_share']:.0%}" for side in sides)
    print(f"{name:24} {size[0]:4} x {size[1]:4} {count:3} {precision} {shown(row)}", flush=True)
    print(f"  {total / 1e9:.0f} GFLOP; of {peak / 1e9:.0f} GFLOP/s: {text}", flush=True)
    return {
        "model": name,
        "size": list(size),
        "batch": count,
        "precision": precision,
        **row,
        "gflop": total / 1e9,
        "xla_gflop": flops.xla_operations(program) / 1e9,
        "peak_gflops": peak / 1e9,
        **shares,
    }


def run_table(name: str, measure: Callable[..., dict[str, Any]], about: str, repeats: int) -> None:
    """Measures the models that the command line names, prints and saves the table.

    Args:
        name: of the file in `results/`; a precision other than float32 is added to it.
        measure: gives a row, as `measure` here does.
        about: what the command does, for its help.
        repeats: timed rounds, unless the command line says otherwise.
    """
    args = parser(about, repeats=repeats).parse_args()
    use_same_threads()
    peak = flops.measured_peak(args.precision, load_config(args.config[0]).train.matmul_precision)
    size = (args.size[0], args.size[1])
    save(
        name if args.precision == "float32" else f"{name}-{args.precision}",
        [measure(n, size, args.batch, args.precision, args.repeats, peak) for n in args.config],
    )


if __name__ == "__main__":
    run_table("forward", measure, __doc__.splitlines()[0], repeats=7)
