"""Which program an operation runs: each platform's own, or plain operations for other compilers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

# Part of the key of `jax.jit`'s caches: a function is traced anew where this changes.
_plain = jax.make_user_context(False)


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Traces operations, while it lasts, without choices between platforms.

    What is traced has the same results, up to rounding, and holds what other compilers know, as
    the exporters of ONNX: no `platform_index`, no loop over blocks in `nms`.  On a CPU it is slower
    than what it stands for, and `nms` takes memory with the square of its boxes, or with a `limit`
    as many rounds.
    """
    with _plain(True):
        yield


def platform_dependent(
    *arguments: Any, default: Callable, plain: Callable | None = None, **programs: Callable
) -> Any:
    """Chooses as `jax.lax.platform_dependent`, or within `plain_operations` takes `plain`.

    That is `default` unless given.
    """
    if _plain.value:
        return (plain or default)(*arguments)
    return jax.lax.platform_dependent(*arguments, default=default, **programs)
