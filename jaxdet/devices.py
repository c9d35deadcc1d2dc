"""One mesh over all devices of all hosts, and moving arrays on and off it."""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"
REPLICATED, SPLIT = PartitionSpec(), PartitionSpec(AXIS)

Tree = TypeVar("Tree")


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """The given devices, or all there are, along the axis `data`, host after host."""
    devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.array(devices), (AXIS,))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """A copy of every (host or device) array on every device of the mesh."""

    def movable(x: Any) -> Any:
        # What one host holds on a device can be moved within that host only.
        return np.asarray(x) if getattr(x, "is_fully_addressable", True) else x

    if jax.process_count() > 1:
        tree = jax.tree.map(movable, tree)
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def split(tree: Tree, mesh: Mesh) -> Tree:
    """Spreads this host's rows over its devices; together they are the global arrays."""
    sharding = NamedSharding(mesh, SPLIT)

    def place(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, x)

    return jax.tree.map(place, tree)


def gather(tree: Tree) -> Tree:
    """Every host's rows, as NumPy arrays, on every host."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
