"""Floating-point operations of the network, counted from its shapes, and what a machine can do.

A multiply-add counts as two.  Only convolutions count: what else there is comes to less than a
hundredth.  Convolutions count as direct sums, whichever program computes them, so a program that
saves products (Winograd on CPU) may have a share of the peak that a direct one could not.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.timing import torch, torch_device
from jaxdet.config import ModelConfig
from jaxdet.models.resnet import BLOCKS
from jaxdet.ops.product import einsum
from jaxdet.programs import compiler_options


class Convolution(NamedTuple):
    """One of the network's convolutions on one image."""

    operations: int  # of its output
    trains: bool  # its kernel has a gradient
    passes: bool  # its input has a gradient


def forward_operations(config: ModelConfig, size: tuple[int, int]) -> int:
    """Of one image of (height, width), multiples of 32."""
    return sum(conv.operations for conv in convolutions(config, size))


def step_operations(config: ModelConfig, size: tuple[int, int]) -> int:
    """Of forward and gradient: every gradient costs what its output did."""
    return sum(
        conv.operations * (1 + conv.trains + conv.passes) for conv in convolutions(config, size)
    )


def convolutions(config: ModelConfig, size: tuple[int, int]) -> list[Convolution]:
    """All of them, in the order in which they run."""
    found, stages = _backbone(config, size)
    levels = [stages[-1]]
    if config.fpn_channels:
        width = config.fpn_channels
        for i, (side, channels) in enumerate(stages):
            trained = i + 1 > config.frozen_stages
            found.append(Convolution(_operations(side, 1, channels, width), True, trained))
            found.append(Convolution(_operations(side, 3, width, width), True, True))
        levels = [(side, width) for side, _ in stages]
        height, width = levels[-1][0]
        levels.append(((-(-height // 2), -(-width // 2)), config.fpn_channels))
    anchors = len(config.anchor_scales) * len(config.anchor_ratios)
    for side, channels in levels:
        found.append(Convolution(_operations(side, 3, channels, config.head_channels), True, True))
        out = _operations(side, 1, config.head_channels, 5 * anchors)
        found.append(Convolution(out, True, True))
    return found


def _backbone(config: ModelConfig, size: tuple[int, int]) -> tuple[list[Convolution], list]:
    """Its convolutions, and ((height, width), channels) of each stage."""
    height, width = size
    channels = config.stem_channels
    trains = config.frozen_stages < 0
    stem = _operations((height // 2, width // 2), 7, 3, channels)
    found, stages = [Convolution(stem, trains, False)], []
    side = (height // 4, width // 4)
    for i, count in enumerate(BLOCKS[config.depth][: config.num_stages]):
        planes = config.stem_channels * 2**i
        wide = planes if config.groups == 1 else planes * config.base_width // 64 * config.groups
        passes, trains = trains, i + 1 > config.frozen_stages
        for j in range(count):
            before = side
            if i > 0 and j == 0:
                side = (side[0] // 2, side[1] // 2)
            first = side if config.style == "caffe" else before
            found.append(Convolution(_operations(first, 1, channels, wide), trains, passes))
            inner = _operations(side, 3, wide, wide) // config.groups
            found.append(Convolution(inner, trains, trains))
            found.append(Convolution(_operations(side, 1, wide, 4 * planes), trains, trains))
            if j == 0:
                found.append(
                    Convolution(_operations(side, 1, channels, 4 * planes), trains, passes)
                )
            channels, passes = 4 * planes, trains
        stages.append((side, channels))
    return found, stages


def _operations(side: tuple[int, int], kernel: int, channels: int, features: int) -> int:
    return 2 * side[0] * side[1] * kernel**2 * channels * features


def measured_peak(dtype: str = "float32", precision: str = "highest", repeats: int = 5) -> float:
    """Operations per second of a large square product, the better of jax and PyTorch."""
    side = 8192 if jax.default_backend() == "gpu" else 3072
    x = jnp.ones((side, side), dtype)
    with jax.default_matmul_precision(precision):
        jitted = jax.jit(partial(einsum, "ij,jk->ik"), compiler_options=compiler_options(dtype))
        product = jitted.lower(x, x).compile()
    seconds = [_fastest(lambda: product(x, x).block_until_ready(), repeats)]
    if torch is not None:
        y = torch.ones((side, side), dtype=getattr(torch, dtype), device=torch_device())

        def run() -> None:
            torch.mm(y, y)
            if y.is_cuda:
                torch.cuda.synchronize()

        seconds.append(_fastest(run, repeats))
    return 2 * side**3 / min(seconds)


def _fastest(thunk: Callable[[], object], repeats: int) -> float:
    thunk()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        thunk()
        best = min(best, time.perf_counter() - start)
    return best


def xla_operations(compiled: jax.stages.Compiled) -> float:
    """What XLA says its program computes; loops count once, library calls perhaps not at all."""
    cost = compiled.cost_analysis()
    return float((cost[0] if isinstance(cost, list) else cost or {}).get("flops", 0.0))
