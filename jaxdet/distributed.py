"""Many devices on many hosts: one mesh, moving arrays on and off it, agreeing, stopping together.

One process on each host; on one host nothing here communicates.
"""

import functools
import os
import signal
from types import FrameType
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdet.errors import InputError

AXIS = "data"
REPLICATED, SPLIT = PartitionSpec(), PartitionSpec(AXIS)
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"

Tree = TypeVar("Tree")


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Returns the given devices, or all there are, along the axis `data`, host after host."""
    devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.array(devices), (AXIS,))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Returns a copy of every (host or device) array on every device of the mesh."""

    def movable(x: Any) -> Any:
        # What one host holds on a device can be moved within that host only.
        return np.asarray(x) if getattr(x, "is_fully_addressable", True) else x

    if jax.process_count() > 1:
        tree = jax.tree.map(movable, tree)
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def split(tree: Tree, mesh: Mesh) -> Tree:
    """Spreads this host's rows over its devices; together they are the global arrays."""
    place = functools.partial(jax.make_array_from_process_local_data, NamedSharding(mesh, SPLIT))
    return jax.tree.map(place, tree)


def gather(tree: Tree) -> Tree:
    """Returns every host's rows, as NumPy arrays, on every host."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def join_hosts(address: str = "", count: int | None = None, index: int | None = None) -> None:
    """Makes this process one of several; must come before the first use of a device.

    What is not given is read from the environment (`JAX_COORDINATOR_ADDRESS`,
    `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`), then asked of the cluster (SLURM, Open MPI,
    Kubernetes, a TPU pod).

    Args:
        address: `host:port` of the first process.
        count: how many processes there are.
        index: which of them this is, from 0.

    Raises:
        InputError: too little is known, or the others cannot be reached.
    """
    address = address or os.environ.get(ADDRESS, "")
    if address and not address.rpartition(":")[2].isdecimal():
        raise InputError(f"--coordinator_address: must be HOST:PORT, not {address!r}")
    count = _number(COUNT) if count is None else count
    index = _number(INDEX) if index is None else index
    try:
        jax.distributed.initialize(address or None, count, index)
    except (ValueError, TypeError, RuntimeError) as error:
        what = str(error).splitlines()[0]
        raise InputError(
            f"the hosts cannot be joined: {what}; give --coordinator_address=HOST:PORT, "
            f"--num_processes and --process_id, or {ADDRESS}, {COUNT} and {INDEX}"
        ) from error


def is_first_host() -> bool:
    """Returns whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def print_once(text: str) -> None:
    """Prints a line, on the first host only, at once."""
    if is_first_host():
        print(text, flush=True)


def of_all_hosts(value: int) -> list[int]:
    """Returns the number that each host gives, the first host's first; all must call this."""
    if jax.process_count() == 1:
        return [value]
    return multihost_utils.process_allgather(np.array(value)).tolist()


class StopSignal:
    """Asks between two steps whether SIGTERM came; use it as a context."""

    def __enter__(self) -> "StopSignal":
        self._came = False
        # With several hosts jax listens itself, and agrees with the others on the step.
        self._alone = jax.process_count() == 1
        self._before: Any = None
        if self._alone:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._alone:
            signal.signal(signal.SIGTERM, self._before)

    def asked(self, step: int) -> bool:
        """Returns whether the run shall end after this step, on all hosts; ask at every one."""
        return self._came if self._alone else multihost_utils.reached_preemption_sync_point(step)

    def _on_signal(self, _: int, frame: FrameType | None) -> None:
        self._came = True


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is not None and not (text.isascii() and text.isdecimal()):
        raise InputError(f"{variable}: must be a number, not {text!r}")
    return None if text is None else int(text)
