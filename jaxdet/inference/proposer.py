"""The network and its post-processing on a mesh, compiled once per bucket."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxdet.config import Config
from jaxdet.data.buckets import Size
from jaxdet.detectors.network import Outputs, Params, apply_model, build_model
from jaxdet.detectors.proposals import propose
from jaxdet.devices import REPLICATED, SPLIT, gather, replicate, split
from jaxdet.types import Batch, Proposals


class Started(NamedTuple):
    """A batch that the devices are busy with; waiting for a field waits for that part."""

    outputs: Outputs
    proposals: Proposals


class _Programs(NamedTuple):
    forward: jax.stages.Compiled
    post: jax.stages.Compiled


class Proposer:
    """Maps batches to proposals in pixels of the resized image."""

    def __init__(self, config: Config, params: Params, mesh: Mesh) -> None:
        """Puts `params` on every device of the mesh."""
        self._config, self._mesh = config, mesh
        self._model = build_model(config.model, config.train.precision)
        self._programs: dict[tuple[int, ...], _Programs] = {}
        self.params = replicate(params, mesh)

    @property
    def num_devices(self) -> int:
        """Devices that share a batch."""
        return self._mesh.size

    def __call__(self, batch: Batch) -> Proposals:
        """Proposals of all hosts' images (NumPy).

        Args:
            batch: this host's rows, NumPy; as many on each of its devices.
        """
        return gather(self.start(batch).proposals)

    def start(self, batch: Batch) -> Started:
        """Hands a batch to the devices and returns at once, compiling first if need be."""
        placed = split(batch, self._mesh)
        count, *bucket, _ = placed.image.shape
        self.prepare(count, (bucket[0], bucket[1]))
        programs = self._programs[placed.image.shape]
        sizes = placed.image_size, placed.pad_size
        outputs = programs.forward(self.params, placed.image, *sizes)
        return Started(outputs, programs.post(outputs, *sizes))

    def prepare(self, count: int, bucket: Size) -> bool:
        """Compiles for batches of `count` images (over all devices) in a bucket.

        Returns:
            Whether there was anything to do.
        """
        shape = (count, *bucket, 3)
        new = shape not in self._programs
        if new:
            self._programs[shape] = self._compile(count, bucket)
        return new

    def _compile(self, count: int, bucket: Size) -> _Programs:
        """Two programs, so that the time of each can be told."""
        config, model = self._config, self._model

        def forward(params: Params, *inputs: jax.Array) -> Outputs:
            with jax.default_matmul_precision(config.train.matmul_precision):
                return apply_model(model, params, *inputs)

        def post(outputs: Outputs, size: jax.Array, pad_size: jax.Array) -> Proposals:
            return propose(outputs, size, pad_size, bucket, config.model, config.proposals)

        def compile_split(function: Callable, specs: tuple, *arguments: Any) -> jax.stages.Compiled:
            # Images are independent of one another; nothing is exchanged between devices.
            mapped = jax.shard_map(
                function, mesh=self._mesh, in_specs=specs, out_specs=SPLIT, check_vma=False
            )
            shardings = tuple(NamedSharding(self._mesh, spec) for spec in specs)
            return jax.jit(mapped, in_shardings=shardings).lower(*arguments).compile()

        image = jax.ShapeDtypeStruct((count, *bucket, 3), jnp.uint8)
        size = jax.ShapeDtypeStruct((count, 2), jnp.int32)
        inputs = image, size, size
        run_forward = compile_split(
            forward, (REPLICATED, SPLIT, SPLIT, SPLIT), self.params, *inputs
        )
        outputs = jax.eval_shape(forward, self.params, *inputs)
        run_post = compile_split(post, (SPLIT, SPLIT, SPLIT), outputs, *inputs[1:])
        return _Programs(run_forward, run_post)
