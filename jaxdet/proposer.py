"""The network and its post-processing on a mesh, compiled once per bucket."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding

from jaxdet.config import Config
from jaxdet.devices import REPLICATED, SPLIT, gather, replicate, split
from jaxdet.models.build import Outputs, Params, apply_model, build_model
from jaxdet.proposals import propose
from jaxdet.types import Batch, Proposals


class Seconds(NamedTuple):
    """Where a batch's time went."""

    compile: float
    forward: float
    post: float


class _Programs(NamedTuple):
    forward: jax.stages.Compiled
    post: jax.stages.Compiled


class Proposer:
    """Maps batches to proposals in pixels of the resized picture."""

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

    def __call__(self, batch: Batch) -> tuple[Proposals, Seconds]:
        """Proposals of all hosts' images (NumPy), and the time it took.

        Args:
            batch: this host's rows, NumPy; as many on each of its devices.
        """
        start = time.perf_counter()
        placed = split(batch, self._mesh)
        programs = self._programs.get(placed.image.shape)
        if programs is None:
            programs = self._programs[placed.image.shape] = self._compile(placed)
        compiled = time.perf_counter()
        sizes = placed.image_size, placed.pad_size
        outputs = jax.block_until_ready(programs.forward(self.params, placed.image, *sizes))
        forward = time.perf_counter()
        proposals = gather(programs.post(outputs, *sizes))
        end = time.perf_counter()
        return proposals, Seconds(compiled - start, forward - compiled, end - forward)

    def _compile(self, batch: Batch) -> _Programs:
        """Two programs, so that the time of each can be told."""
        config, model = self._config, self._model
        bucket = batch.image.shape[1:3]

        def forward(params: Params, *inputs: jax.Array) -> Outputs:
            with jax.default_matmul_precision(config.train.matmul_precision):
                return apply_model(model, params, *inputs)

        def post(outputs: Outputs, size: jax.Array, pad_size: jax.Array) -> Proposals:
            return propose(outputs, size, pad_size, bucket, config.model, config.test)

        def compile_split(function: Callable, specs: tuple, *arguments: Any) -> jax.stages.Compiled:
            # Images are independent of one another; nothing is exchanged between devices.
            mapped = jax.shard_map(
                function, mesh=self._mesh, in_specs=specs, out_specs=SPLIT, check_vma=False
            )
            shardings = tuple(NamedSharding(self._mesh, spec) for spec in specs)
            return jax.jit(mapped, in_shardings=shardings).lower(*arguments).compile()

        inputs = batch.image, batch.image_size, batch.pad_size
        run_forward = compile_split(
            forward, (REPLICATED, SPLIT, SPLIT, SPLIT), self.params, *inputs
        )
        outputs = jax.eval_shape(forward, self.params, *inputs)
        run_post = compile_split(post, (SPLIT, SPLIT, SPLIT), outputs, *inputs[1:])
        return _Programs(run_forward, run_post)
