"""Many devices on many hosts: one mesh, moving arrays on and off it, agreeing, stopping together.

One process on each host; on one host nothing here communicates.
"""

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdet.console import say
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
    if jax.process_count() > 1:
        # What one host holds on a device can be moved within that host only.
        tree = jax.tree.map(
            lambda x: np.asarray(x) if getattr(x, "is_fully_addressable", True) else x, tree
        )
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def split(tree: Tree, mesh: Mesh) -> Tree:
    """Spreads this host's rows over its devices; together they are the global arrays."""
    place = functools.partial(jax.make_array_from_process_local_data, NamedSharding(mesh, SPLIT))
    return jax.tree.map(place, tree)


def gather(tree: Tree, mesh: Mesh) -> Tree:
    """Returns the rows of every host that a mesh spans, as NumPy arrays, on each of them."""
    if mesh.is_multi_process:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)


def join_hosts(address: str, count: int | None, index: int | None) -> None:
    """Makes this process one of several; must come before the first use of a device.

    What is not given is read from the environment, then asked of the cluster (SLURM, Open MPI,
    Kubernetes, a TPU pod): `host:port` of the first process (`JAX_COORDINATOR_ADDRESS`), how many
    there are (`JAX_NUM_PROCESSES`) and which of them, from 0, this is (`JAX_PROCESS_ID`).
    Raises `InputError` if too little is known, or the others cannot be reached.
    """

    def known(given: int | None, variable: str) -> int | None:
        text = os.environ.get(variable)
        return int(text) if given is None and text else given

    address = address or os.environ.get(ADDRESS, "")
    try:
        if address and not address.rpartition(":")[2].isdecimal():
            raise ValueError(f"{address!r} is not HOST:PORT")
        jax.distributed.initialize(address or None, known(count, COUNT), known(index, INDEX))
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
        say(text)


def of_all_hosts(value: int) -> list[int]:
    """Returns the number that each host gives, the first host's first; all must call this."""
    return multihost_utils.process_allgather(np.array(value)).tolist()


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], int]]:
    """Yields a function that tells, at every step, which signal to stop came, to all hosts alike.

    That is SIGTERM, or on one host SIGINT (Ctrl-C); 0 is none.  A second one ends the process.
    """
    if jax.process_count() > 1:  # jax listens itself, and agrees with the others on the step
        reached = multihost_utils.reached_preemption_sync_point
        yield lambda step: signal.SIGTERM if reached(step) else 0
        return
    came = [0]

    def listen(number: int, frame: object) -> None:
        came.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    ours = [x for x in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(x) != signal.SIG_IGN]
    before = {each: signal.signal(each, listen) for each in ours}
    try:
        yield lambda step: came[-1]
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
