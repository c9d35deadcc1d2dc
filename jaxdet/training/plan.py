"""How many steps a run takes, and what follows which of them."""

from typing import NamedTuple

import optax

from jaxdet.config import Config, TrainConfig
from jaxdet.data.dataset import Dataset
from jaxdet.data.sampler import steps_per_epoch
from jaxdet.training import optimizer as optim


class Plan(NamedTuple):
    """How long, how many and how fast."""

    global_batch: int
    steps_per_epoch: int
    total_steps: int
    learning_rate: optax.Schedule
    train: TrainConfig

    def evaluation_due(self, number: int) -> bool:
        """Returns whether an evaluation follows `number` updates."""
        period = self.train.eval_every * self.steps_per_epoch
        return number == self.total_steps or (number > 0 and number % period == 0)

    def saving_due(self, number: int) -> bool:
        """Returns whether a checkpoint follows `number` updates."""
        return number % self.train.checkpoint_every == 0 or self.evaluation_due(number)

    def logging_due(self, number: int) -> bool:
        """Returns whether a line follows; a checkpoint always has one before it."""
        return number % self.train.log_every == 0 or self.saving_due(number)


def make_plan(config: Config, dataset: Dataset, num_devices: int) -> Plan:
    """Returns the steps that the epochs of a data set are."""
    train, batch = config.train, optim.global_batch(config, num_devices)
    per_epoch = steps_per_epoch(dataset, config.data, batch)
    return Plan(
        global_batch=batch,
        steps_per_epoch=per_epoch,
        total_steps=train.num_steps or train.num_epochs * per_epoch,
        learning_rate=optim.learning_rate(config.optimizer, per_epoch, batch),
        train=train,
    )


def describe(config: Config, plan: Plan, num_devices: int) -> str:
    """Returns the plan as a line: who does how much, and the learning rate that comes of it."""
    optimizer, groups = config.optimizer, config.train.accumulation
    times = f" x {groups} in turn" if groups > 1 else ""
    rate = optim.base_rate(optimizer, plan.global_batch)
    scaled = f" ({optimizer.learning_rate:g} for {optim.REFERENCE_BATCH})"
    return (
        f"{num_devices} device{'s' if num_devices > 1 else ''} x {config.data.images_per_device}"
        f" images{times} = {plan.global_batch} a step; {plan.steps_per_epoch} steps an epoch, "
        f"{plan.total_steps} in all; learning rate {rate:g}{scaled if optimizer.scale_lr else ''}"
    )
