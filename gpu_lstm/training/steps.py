"""How a training step is asked of the device: launch by launch; `gpu_lstm.training.replayed` has the other way."""

from __future__ import annotations

from typing import NamedTuple

from gpu_lstm.backend import Array
from gpu_lstm.layers import Params
from gpu_lstm.optimizers import Optimizer
from gpu_lstm.training.tasks import Task


class Asked(NamedTuple):
    """What a step gives, once the device has done it: loss, norm of the gradients, gradients."""

    loss: Array
    norm: Array
    gradients: Params


class Launched:
    """Steps of a task by an optimizer, launch by launch; the gradients' norm is at most `clip`."""

    def __init__(self, task: Task, optimizer: Optimizer, clip: float):
        self.task, self.optimizer, self.clip = task, optimizer, clip

    def ask(self, number: int, factor: float) -> Asked:
        """Step `number`, at the learning rate times `factor`. Where loss or norm isn't finite, no parameter moves."""
        self.task.begin(number)
        return self._move(factor, *self.task.compute())

    def _move(self, factor: float, loss: Array, gradients: Params) -> Asked:
        scale = self.task.model.loss_scale
        return Asked(loss, self.optimizer.update(gradients, factor, self.clip, loss, scale), gradients)
