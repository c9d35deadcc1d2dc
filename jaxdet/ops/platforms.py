"""Which program an operation runs: each platform's own, or plain operations for other compilers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

# Part of the key of `jax.jit`'s caches: a function is traced anew where this changes.
_traced = jax.make_user_context("own")


@contextlib.contextmanager
def every_platform() -> Iterator[None]:
    """Traces each platform's program while it lasts, for export from CPUs to other platforms.

    Elsewhere, where CPUs are all there is, operations are traced for them alone: in two thirds of
    the time.
    """
    with _traced("every"):
        yield


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Traces operations, while it lasts, without choices between platforms.

    What is traced has the same results, up to rounding, and holds what other compilers know, as
    the exporters of ONNX: no `platform_index`, no loop over blocks in `nms`.  On a CPU it is slower
    than what it stands for, and `nms` takes memory with the square of its boxes, or with a `limit`
    as many rounds.
    """
    with _traced("plain"):
        yield


def platform_dependent(
    *arguments: Any, default: Callable, plain: Callable | None = None, **programs: Callable
) -> Any:
    """Chooses as `jax.lax.platform_dependent`, or takes the CPU's where CPUs are all there is.

    Within `every_platform` it always chooses; within `plain_operations` it takes `plain`, which is
    `default` unless given.
    """
    if _traced.value == "plain":
        return (plain or default)(*arguments)
    if _traced.value == "own" and jax.default_backend() == "cpu":
        return programs.get("cpu", default)(*arguments)
    return jax.lax.platform_dependent(*arguments, default=default, **programs)
