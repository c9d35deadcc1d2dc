"""SGD with the reference's warm-up and steps."""

import jax.numpy as jnp
import optax

from jaxdet.config import OptimizerConfig

REFERENCE_BATCH = 16


def learning_rate(
    config: OptimizerConfig, steps_per_epoch: int, global_batch: int
) -> optax.Schedule:
    """Step -> rate: constant, times `decay_factor` at each decay epoch, warmed up linearly."""
    scale = global_batch / REFERENCE_BATCH if config.scale_lr else 1.0
    boundaries = [round(epoch * steps_per_epoch) for epoch in config.decay_epochs]

    def schedule(step):
        decays = sum(jnp.asarray(step >= b, jnp.float32) for b in boundaries)
        rate = config.learning_rate * scale * config.decay_factor**decays
        progress = jnp.minimum(step / max(config.warmup_steps, 1), 1.0)
        warmup = 1 - (1 - progress) * (1 - config.warmup_ratio) if config.warmup_steps else 1.0
        return rate * warmup

    return schedule


def make_optimizer(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """Clip the gradient's norm, add weight decay, then PyTorch's momentum: v = m v + g."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(rate, momentum=config.momentum),
    )
