"""A step of training, from a batch on the device to updated weights: jaxdet beside PyTorch.

    python -m benchmarks.train_step

Targets, forward, losses, gradient, clipping and SGD.  On a GPU float32 products are
TensorFloat-32 for both; `--precision bfloat16` is autocasting in PyTorch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import flops, peers
from benchmarks.forward import Case, finished, run_table
from benchmarks.setups import (
    plain_images,
    plain_model,
    plain_precision,
)
from benchmarks.timing import (
    compared,
    paired_medians,
    torch,
    torch_device,
)
from jaxdet.config import Config
from jaxdet.detectors.build import build_detector
from jaxdet.distributed import data_mesh, replicate, split
from jaxdet.training.optimizer import make_optimizer
from jaxdet.training.step import init_state, make_train_step
from jaxdet.types import Batch, Params

# Small, so that many steps on noise stay finite.
RATE = 1e-5


def our_step(
    config: Config, params: Params, batch: Batch
) -> tuple[Callable[[], float], jax.stages.Compiled]:
    """A function that steps and returns the loss, and its program."""
    mesh = data_mesh(jax.local_devices()[:1])
    optimizer = make_optimizer(config.optimizer, lambda step: jnp.float32(RATE))
    detector = build_detector(config)
    first = init_state(detector, params, optimizer)
    state, placed = replicate(first, mesh), split(batch, mesh)
    jitted: Any = make_train_step(detector, config.train, optimizer, mesh)
    program = jitted.lower(state, placed).compile()

    def step() -> float:
        nonlocal state
        state, metrics = program(state, placed)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return step, program


def plain_step(
    config: Config, params: Params, batch: Batch, kind: str = "eager"
) -> Callable[[], float]:
    """The same in PyTorch, by one of `peers.TRAINING`."""
    from benchmarks import plain_rpn

    plain, images = plain_model(config, params), plain_images(batch.image, config)
    model, images = peers.variant(kind, plain), peers.laid_out(kind, images)
    trained = [p for p in model.parameters() if p.requires_grad]
    settings = config.optimizer
    optimizer = torch.optim.SGD(
        trained, lr=RATE, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    device = torch_device()
    anchors = plain_rpn.anchors_of(batch.image.shape[1:3], config.model, device)
    boxes = [torch.from_numpy(found).to(device) for found in batch.boxes]
    sizes = [(int(height), int(width)) for height, width in batch.image_size]

    def step() -> float:
        optimizer.zero_grad()
        with plain_precision(config):
            levels = model(images)
        loss = plain_rpn.loss(levels, anchors, boxes, sizes, config)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
        optimizer.step()
        return loss.item()

    return step


def measure(case: Case) -> dict[str, Any]:
    """Returns one row."""
    config, params, batch = case.drawn()
    step, program = our_step(config, params, batch)
    kinds = case.peers(peers.TRAINING)
    thunks = {kind: plain_step(config, params, batch, kind) for kind in kinds}
    row = compared(paired_medians({**thunks, "jaxdet": step}, case.repeats))
    return finished(case, row, flops.step_operations(config.model, case.size), program)


if __name__ == "__main__":
    run_table("train_step", measure, __doc__.splitlines()[0], repeats=5)
