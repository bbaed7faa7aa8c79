"""Optimizers: they update parameters in place from gradients of the same names.

``optimizer.state`` is a flat dictionary of arrays, all that has to be saved to go on later, with the number of
updates in ``optimizer.updates``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError

Params = Mapping[str, Array]


class Optimizer:
    """Base: the learning rate and the per-parameter state, zero at the start.

    Parameters
    ----------
    backend : Backend
    params : mapping of str to array
        Updated in place by `update`.
    learning_rate : float
        Multiplied by the factor given to `update`.
    """

    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self, backend: Backend, params: Params, learning_rate: float):
        if not (learning_rate > 0 and math.isfinite(learning_rate)):
            raise InputError(f"learning_rate is {learning_rate!r}; expected a number above 0")
        self.backend = backend
        self.params = params
        self.learning_rate = learning_rate
        self.updates = 0
        self.state: dict[str, Array] = {
            f"{slot}.{name}": backend.xp.zeros_like(p) for slot in self.slots for name, p in params.items()
        }

    def update(self, gradients: Params, factor: float = 1.0) -> None:
        """Move every parameter by its gradient; `factor` scales the learning rate (see schedules)."""
        if gradients.keys() != self.params.keys():
            odd = sorted(gradients.keys() ^ self.params.keys())
            raise InputError(f"gradients has not the parameters' names; these are on one side only: {odd}")
        for name, param in self.params.items():
            gradient = gradients[name]
            if not (self.backend.owns(gradient) and gradient.shape == param.shape and gradient.dtype == param.dtype):
                self.backend.require(f"gradient of {name}", gradient, tuple(param.shape), str(param.dtype))
        self.updates += 1
        for name, param in self.params.items():
            self.move(name, param, gradients[name], self.learning_rate * factor)

    def move(self, name: str, param: Array, gradient: Array, rate: float) -> None:
        """Update one parameter."""
        raise NotImplementedError


class SGD(Optimizer):
    """Gradient descent with momentum: v = momentum v + gradient, p -= rate v (PyTorch's form)."""

    slots = ("velocity",)

    def __init__(self, backend: Backend, params: Params, learning_rate: float = 0.1, momentum: float = 0.0):
        super().__init__(backend, params, learning_rate)
        self.momentum = _fraction("momentum", momentum)

    def move(self, name: str, param: Array, gradient: Array, rate: float) -> None:  # noqa: D102
        velocity = self.state[f"velocity.{name}"]
        velocity *= self.momentum
        velocity += gradient
        param -= rate * velocity


class RMSProp(Optimizer):
    """p -= rate gradient / (sqrt(mean of squares) + eps) (T. Tieleman and G. Hinton, 2012)."""

    slots = ("square",)

    def __init__(
        self,
        backend: Backend,
        params: Params,
        learning_rate: float = 1e-3,
        decay: float = 0.99,
        eps: float = 1e-8,
    ):
        super().__init__(backend, params, learning_rate)
        self.decay = _fraction("decay", decay)
        self.eps = eps

    def move(self, name: str, param: Array, gradient: Array, rate: float) -> None:  # noqa: D102
        square = self.state[f"square.{name}"]
        square *= self.decay
        square += (1 - self.decay) * gradient * gradient
        param -= rate * gradient / (self.backend.xp.sqrt(square) + self.eps)


class Adam(Optimizer):
    """Adam (D. Kingma and J. Ba, 2015), with both moments' bias corrected."""

    slots = ("mean", "square")
    weight_decay = 0.0

    def __init__(
        self,
        backend: Backend,
        params: Params,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ):
        super().__init__(backend, params, learning_rate)
        self.beta1 = _fraction("beta1", beta1)
        self.beta2 = _fraction("beta2", beta2)
        self.eps = eps

    def move(self, name: str, param: Array, gradient: Array, rate: float) -> None:  # noqa: D102
        mean, square = self.state[f"mean.{name}"], self.state[f"square.{name}"]
        if self.weight_decay:
            param *= 1 - rate * self.weight_decay
        mean *= self.beta1
        mean += (1 - self.beta1) * gradient
        square *= self.beta2
        square += (1 - self.beta2) * gradient * gradient
        divisor = self.backend.xp.sqrt(square)
        divisor /= math.sqrt(1 - self.beta2**self.updates)
        divisor += self.eps
        step = mean / divisor
        step *= rate / (1 - self.beta1**self.updates)
        param -= step


class AdamW(Adam):
    """Adam with decoupled weight decay: p *= 1 - rate * weight_decay first (I. Loshchilov and F. Hutter, 2019)."""

    def __init__(
        self,
        backend: Backend,
        params: Params,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(backend, params, learning_rate, beta1, beta2, eps)
        if weight_decay < 0:
            raise InputError(f"weight_decay is {weight_decay!r}; expected at least 0")
        self.weight_decay = weight_decay


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "rmsprop": RMSProp, "adam": Adam, "adamw": AdamW}


def make_optimizer(name: str, backend: Backend, params: Params, learning_rate: float, **options: float) -> Optimizer:
    """The optimizer called `name`: sgd, rmsprop, adam or adamw."""
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer is {name!r}; expected one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](backend, params, learning_rate, **options)


def clip_by_global_norm(backend: Backend, gradients: Params, max_norm: float) -> float:
    """Scale all gradients in place so that their joint 2-norm is at most `max_norm` (Pascanu et al., 2013).

    Returns
    -------
    float
        The norm before clipping.
    """
    if not max_norm > 0:
        raise InputError(f"max_norm is {max_norm!r}; expected a number above 0")
    xp = backend.xp
    total = None
    for gradient in gradients.values():
        flat = xp.reshape(gradient, (-1,))
        square = xp.vecdot(flat, flat)
        total = square if total is None else total + square
    norm = math.sqrt(float(total)) if total is not None else 0.0
    if norm > max_norm:
        for gradient in gradients.values():
            gradient *= max_norm / norm
    return norm


def _fraction(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise InputError(f"{name} is {value!r}; expected a number in [0, 1)")
    return float(value)
