"""What went wrong in a step, in words."""

from __future__ import annotations

import math

from gpu_lstm.backend import Backend
from gpu_lstm.errors import GpuLstmError
from gpu_lstm.layers import Params
from gpu_lstm.models import Model
from gpu_lstm.optimizers import Optimizer
from gpu_lstm.training.memory import readable


class TrainingError(GpuLstmError):
    """Training can't go on: the loss or a gradient is no longer a finite number, or memory ran out."""

    agreed = True  # all ranks raise it at once


def not_finite(backend: Backend, loss: float, norm: float, gradients: Params) -> str:
    """Loss and norm of the gradients, and the first gradient with NaN or infinity, if there is one."""
    told, xp = f"loss is {loss}, norm of the gradients {norm}", backend.xp
    for name, gradient in gradients.items():
        if bad := int(xp.sum(xp.astype(~xp.isfinite(gradient), xp.int64))):
            layer, _, last = name.rpartition(".")
            total = math.prod(gradient.shape)
            return f"{told}; {bad} of {total} numbers in the gradient of {last} of layer {layer} aren't finite"
    return told


def out_of_memory(model: Model, optimizer: Optimizer, step: int, told: str, advice: str) -> TrainingError:
    """The error to raise after `step` steps, once what we hold of memory has been given back."""
    model.backend.memory(release=True)
    size = sum(int(array.nbytes) for array in model.params.values())
    sizes = f"parameters and gradients {readable(2 * size)}, optimizer {readable(len(optimizer.slots) * size)}"
    error = TrainingError(f"step {step + 1} ran out of memory: {told or 'no size told'} ({sizes}); {advice}")
    error.agreed = False
    return error
