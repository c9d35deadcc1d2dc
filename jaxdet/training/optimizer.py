"""The reference's SGD with its warm-up and steps, and AdamW on the same schedule."""

import jax.numpy as jnp
import optax

from jaxdet.config import Config, OptimizerConfig

REFERENCE_BATCH = 16


def global_batch(config: Config, num_devices: int) -> int:
    """Returns the images in a step, over all devices of all hosts."""
    return config.data.images_per_device * num_devices * config.train.accumulation


def base_rate(config: OptimizerConfig, global_batch: int) -> float:
    """Returns the rate between warm-up and first decay: the config's, or linear in the batch."""
    return config.learning_rate * (global_batch / REFERENCE_BATCH if config.scale_lr else 1.0)


def learning_rate(
    config: OptimizerConfig, steps_per_epoch: int, global_batch: int
) -> optax.Schedule:
    """Returns step -> rate: warmed up linearly, times `decay_factor` at each decay epoch."""
    base = base_rate(config, global_batch)
    # Steps are counted in 32 bits; a decay beyond them never comes.
    last = 2**31 - 1
    boundaries = [min(round(epoch * steps_per_epoch), last) for epoch in config.decay_epochs]

    def schedule(step):
        decays = sum(jnp.asarray(step >= b, jnp.float32) for b in boundaries)
        rate = base * config.decay_factor**decays
        progress = jnp.minimum(step / max(config.warmup_steps, 1), 1.0)
        warmup = 1 - (1 - progress) * (1 - config.warmup_ratio) if config.warmup_steps else 1.0
        return rate * warmup

    return schedule


def make_optimizer(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """Clips the gradient's norm if asked to, then updates.

    sgd: weight decay is added to the gradient, then PyTorch's momentum, v = m v + g.
    adamw: Loshchilov and Hutter 2019, weight decay apart from the gradient.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if config.name == "adamw":
        return optax.chain(clip, optax.adamw(rate, b2=0.99, weight_decay=config.weight_decay))
    decay = optax.add_decayed_weights(config.weight_decay)
    return optax.chain(clip, decay, optax.sgd(rate, momentum=config.momentum))
