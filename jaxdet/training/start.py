"""What a run begins with: fresh parameters, a checkpoint's, or its own newest state."""

from pathlib import Path

import jax

from jaxdet.checkpoint import Checkpoints, read_backbone, read_params
from jaxdet.config import Config, warn_of_other_results
from jaxdet.data.dataset import Dataset
from jaxdet.distributed import print_once
from jaxdet.errors import InputError, OtherHeads
from jaxdet.models.params import split_params
from jaxdet.training.plan import Plan
from jaxdet.training.step import TrainState
from jaxdet.types import Detector, Params


def first_params(
    config: Config, detector: Detector, checkpoint: str, fresh: bool = False
) -> Params:
    """Returns fresh parameters, or those of a checkpoint, or those with a pretrained backbone."""
    # Of jax's generators this one compiles in a third of the time.
    params = jax.jit(detector.init)(jax.random.key(config.train.seed, impl="rbg"))
    if fresh:
        return params
    if checkpoint:
        fresh_heads, convention = config.train.fresh_heads, config.model.convention
        try:
            params = read_params(checkpoint, params, convention, fresh_heads)
        except OtherHeads as error:
            flag = "--config.train.fresh_heads=True"
            raise InputError(f"{error}; with {flag} they begin anew") from error
        warn_of_other_results(checkpoint, config)
        return params
    if config.model.pretrained:
        rooms = [room for room in ("backbone", "shared_head") if room in params]  # C4: stage 4
        stages = {name: x for room in rooms for name, x in params[room].items()}
        read = read_backbone(config.model.pretrained, stages)
        return {**params, **{room: {k: read[k] for k in params[room]} for room in rooms}}
    return params


def resume(
    state: TrainState,
    checkpoints: Checkpoints,
    detector: Detector,
    plan: Plan,
    workdir: Path,
    training: Dataset,
) -> TrainState:
    """Returns the newest saved state, on the host, or `state` if none is saved.

    Says if it was trained on other images.  Raises `InputError` if it was made with other steps, on
    fewer devices perhaps.
    """
    saved = checkpoints.restore_newest(state.params, state.opt_state)
    if saved is None:
        return state
    before = saved.meta.get("global_batch", plan.global_batch)  # a converted checkpoint has none
    if before != plan.global_batch:
        raise InputError(
            f"{workdir}: trained with {before} images a step, and this would be "
            f"{plan.global_batch}; set --config.train.accumulation so that devices x images per "
            f"device x accumulation is {before}, or choose another --workdir"
        )
    print_once(f"going on from step {saved.step} of {workdir}")
    if (data := saved.meta.get("data", training.summary)) != training.summary:
        print_once(
            f"other training data than before: {data} there, {training.summary} now; "
            "epochs, and the decay of the learning rate by them, follow the new ones"
        )
    parts = split_params(saved.params, detector.trainable)
    return TrainState(jax.numpy.int32(saved.step), *parts, saved.opt_state)
