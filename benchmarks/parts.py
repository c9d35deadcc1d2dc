"""Where a network's time goes: each kind of its convolutions alone, beside the machine's peak.

    python -m benchmarks.parts

A convolution is a program of its own here, with its input in memory and nothing fused to it, so
the sum over all of them is close to the whole program's time, not equal to it.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks import flops
from benchmarks.setups import load_config, on_device, parser, random_batch, random_params
from benchmarks.timing import keep_freed_memory, paired_medians, save, use_same_threads
from jaxdet.config import Config
from jaxdet.detectors.rpn import apply, build_network
from jaxdet.models import layers
from jaxdet.ops.conv import conv2d


class Call(NamedTuple):
    """One convolution; those that are alike are timed once."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    padding: int
    groups: int

    def kind(self) -> str:
        """What it is counted with."""
        height, width, depth, _ = self.kernel
        text = f"{height}x{width}" + (", stride 2" if self.stride > 1 else "")
        return text if self.groups == 1 else f"{text}, {self.groups} groups of {depth}"

    def operations(self) -> int:
        """Of its output: two for a multiply-add."""
        batch, height, width, _ = self.image
        cells = batch * (height // self.stride) * (width // self.stride)
        count = 2 * cells
        for side in self.kernel:
            count *= side
        return count

    def programs(self) -> dict[str, Callable[[], Any]]:
        """Forward, and the gradients in kernel and input; each computes and waits."""
        conv = partial(conv2d, stride=self.stride, padding=self.padding, groups=self.groups)
        keys = jax.random.split(jax.random.key(0, impl="rbg"))
        x, kernel = map(jax.random.normal, keys, (self.image, self.kernel))
        dy = jnp.ones_like(conv(x, kernel))
        gradients = {
            "kernel": lambda x, kernel, dy: jax.vjp(partial(conv, x), kernel)[1](dy),
            "input": lambda x, kernel, dy: jax.vjp(lambda x: conv(x, kernel), x)[1](dy),
        }
        functions = {"forward": lambda x, kernel, dy: conv(x, kernel), **gradients}
        return {k: partial(_finish, jax.jit(f), x, kernel, dy) for k, f in functions.items()}


def _finish(function: Callable, *arguments: jax.Array) -> None:
    jax.block_until_ready(function(*arguments))


def convolutions(config: Config, size: tuple[int, int], batch: int) -> list[Call]:
    """All of the network's, in their order."""
    found, network = list[Call](), build_network(config.model, config.train)

    def recorded(x, kernel, *, stride: int = 1, padding: int = 0, groups: int = 1):
        found.append(Call(x.shape, kernel.shape, stride, padding, groups))
        return conv2d(x, kernel, stride=stride, padding=padding, groups=groups)

    images, params = on_device(random_batch(size, batch)).images, random_params(config)
    with mock.patch.object(layers, "conv2d", recorded):
        jax.eval_shape(partial(apply, network), params, images)
    return found


def measure(name: str, size: tuple[int, int], batch: int, repeats: int, peak: float) -> list[dict]:
    """A row for each kind."""
    calls = convolutions(load_config(name), size, batch)
    seconds = {call: paired_medians(call.programs(), repeats) for call in set(calls)}
    kinds = defaultdict(list)
    for call in calls:
        kinds[call.kind()].append(call)
    rows = []
    for kind, own in kinds.items():
        operations = sum(call.operations() for call in own)
        times = {k: sum(seconds[call][k] for call in own) for k in ("forward", "kernel", "input")}
        shares = {f"{k}_share": operations / value / peak for k, value in times.items()}
        row = {"model": name, "kind": kind, "count": len(own), "gflop": operations / 1e9}
        rows.append({**row, **times, **shares})
        text = (f"{k} {v * 1e3:.0f} ms ({shares[f'{k}_share']:.0%})" for k, v in times.items())
        print(f"{name:22} {kind:28} {len(own):3}: {', '.join(text)}", flush=True)
    return rows


def main() -> None:
    """Measures, prints and saves."""
    args = parser(__doc__.splitlines()[0], repeats=5).parse_args()
    keep_freed_memory()
    use_same_threads()
    peak = flops.measured_peak(args.precision, load_config(args.config[0]).train.matmul_precision)
    size = args.size[0], args.size[1]
    save(
        "parts", [r for n in args.config for r in measure(n, size, args.batch, args.repeats, peak)]
    )


if __name__ == "__main__":
    main()
