"""Gradient descent with momentum, and with a running mean of squares."""

from __future__ import annotations

from collections.abc import Sequence

from gpu_lstm.backend import Array, Backend
from gpu_lstm.layers.checks import check_least, check_probability
from gpu_lstm.optimizers.base import Optimizer, Params, compiled_as
from gpu_lstm.optimizers.given import HasParams


class SGD(Optimizer):
    """Gradient descent with momentum: v = momentum v + gradient, p -= rate v (PyTorch's form).

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> norm = SGD(params, learning_rate=0.5).update({"w": np.array([3.0, 4.0])}, max_norm=1.0)
    >>> params["w"], float(norm)
    (array([0.7, 1.6]), 5.0)
    """

    slots = ("velocity",)

    def __init__(
        self, params: Params | HasParams, learning_rate: float = 0.1, momentum: float = 0.0, *,
        backend: Backend | None = None,
    ):  # fmt: skip
        super().__init__(params, learning_rate, backend=backend)
        self.momentum = check_probability("momentum", momentum, "number")

    def numbers(self) -> tuple[float, ...]:  # noqa: D102
        return self.rate, self.momentum

    @compiled_as("sgd")
    def move(self, param: Array, gradient: Array, state: Sequence[Array], numbers: Sequence[float]) -> None:  # noqa: D102
        (velocity,), (rate, momentum) = state, numbers
        velocity *= momentum
        velocity += gradient
        param -= rate * velocity


class RMSProp(Optimizer):
    """p -= rate gradient / (sqrt(mean of squares, by `decay`) + eps) (T. Tieleman and G. Hinton, 2012).

    Examples
    --------
    >>> optimizer = RMSProp({"w": np.array([1.0, 2.0])}, learning_rate=0.01)
    >>> _ = optimizer.update({"w": np.array([0.5, -0.5])})
    >>> optimizer.params["w"].round(4)
    array([0.9, 2.1])
    """

    slots = ("square",)

    def __init__(
        self, params: Params | HasParams, learning_rate: float = 1e-3, decay: float = 0.99, eps: float = 1e-8, *,
        backend: Backend | None = None,
    ):  # fmt: skip
        super().__init__(params, learning_rate, backend=backend)
        self.decay = check_probability("decay", decay, "number")
        self.eps = check_least("eps", eps)

    def numbers(self) -> tuple[float, ...]:  # noqa: D102
        return self.rate, self.decay, 1 - self.decay, self.eps

    @compiled_as("rmsprop")
    def move(self, param: Array, gradient: Array, state: Sequence[Array], numbers: Sequence[float]) -> None:  # noqa: D102
        (square,), (rate, decay, rest, eps) = state, numbers
        square *= decay
        square += rest * gradient * gradient
        param -= rate * gradient / (self.backend.xp.sqrt(square) + eps)
