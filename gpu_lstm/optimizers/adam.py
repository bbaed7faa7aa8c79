"""Adam, and the same with decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpu_lstm.backend import Array, Backend
from gpu_lstm.layers.checks import check_least, check_probability
from gpu_lstm.optimizers.base import Optimizer, Params, compiled_as
from gpu_lstm.optimizers.given import HasParams


class Adam(Optimizer):
    """Adam (D. Kingma and J. Ba, 2015): moments decay by beta1, beta2, with bias corrected; eps is added to the root.

    Examples
    --------
    >>> optimizer = Adam({"w": np.array([1.0, 2.0])}, learning_rate=0.1)
    >>> norm = optimizer.update({"w": np.array([3.0, -4.0])}, max_norm=1.0)
    >>> optimizer.params["w"].round(6), float(norm)
    (array([0.9, 2.1]), 5.0)
    """

    slots = ("mean", "square")
    weight_decay = 0.0

    def __init__(
        self, params: Params | HasParams, learning_rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999,
        eps: float = 1e-8, *, backend: Backend | None = None,
    ):  # fmt: skip
        super().__init__(params, learning_rate, backend=backend)
        self.beta1 = check_probability("beta1", beta1, "number")
        self.beta2 = check_probability("beta2", beta2, "number")
        self.eps = check_least("eps", eps)

    def numbers(self) -> tuple[float, ...]:
        """Return the numbers of `move`; step size and the second moment's root hold both biases' corrections."""
        return (
            self.rate / (1 - self.beta1**self.updates), math.sqrt(1 - self.beta2**self.updates),
            self.beta1, 1 - self.beta1, self.beta2, 1 - self.beta2, self.eps, 1 - self.rate * self.weight_decay,
        )  # fmt: skip

    @compiled_as("adam")
    def move(self, param: Array, gradient: Array, state: Sequence[Array], numbers: Sequence[float]) -> None:  # noqa: D102
        mean, square = state
        step_size, root, beta1, rest1, beta2, rest2, eps, shrink = numbers
        if shrink != 1:
            param *= shrink
        mean *= beta1
        mean += rest1 * gradient
        square *= beta2
        square += rest2 * gradient * gradient
        divisor = self.backend.xp.sqrt(square)
        divisor /= root
        divisor += eps
        step = mean / divisor
        step *= step_size
        param -= step


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p *= 1 - rate * weight_decay`` first (I. Loshchilov and F. Hutter, 2019)."""

    def __init__(
        self, params: Params | HasParams, learning_rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999,
        eps: float = 1e-8, weight_decay: float = 0.01, *, backend: Backend | None = None,
    ):  # fmt: skip
        super().__init__(params, learning_rate, beta1, beta2, eps, backend=backend)
        self.weight_decay = check_least("weight_decay", weight_decay)
