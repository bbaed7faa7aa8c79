"""What went wrong in a step, in words."""

from __future__ import annotations

import math

from gpu_lstm.backend import Backend
from gpu_lstm.layers import Params
from gpu_lstm.models import Model
from gpu_lstm.training.memory import readable


def not_finite(backend: Backend, loss: float, norm: float, gradients: Params) -> str:
    """Loss and norm of the gradients, and the first gradient with NaN or infinity, if there is one."""
    told, xp = f"loss is {loss}, norm of the gradients {norm}", backend.xp
    for name, gradient in gradients.items():
        if bad := int(xp.sum(xp.astype(~xp.isfinite(gradient), xp.int64))):
            layer, _, last = name.rpartition(".")
            total = math.prod(gradient.shape)
            return f"{told}; {bad} of {total} numbers in the gradient of {last} of layer {layer} aren't finite"
    return told


def memory_held(model: Model, slots: int) -> str:
    """What parameters, gradients and an optimizer's `slots` arrays of their size take."""
    size = sum(int(array.nbytes) for array in model.params.values())
    return f"parameters and gradients {readable(2 * size)}, optimizer {readable(slots * size)}"
