"""The losses of numbers: squared, absolute, and Huber's between the two."""

from __future__ import annotations

import math

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import any_shape
from gpu_lstm.layers.checks import check_number
from gpu_lstm.losses.cross_entropy import is_float


def mean_squared(backend: Backend, prediction: Array, target: Array) -> tuple[Array, Array]:
    """Compute the mean of (prediction - target)^2 over all elements, and its gradient, shaped like `prediction`.

    Examples
    --------
    >>> mean_squared([[1.0, 3.0]], [[1.0, 1.0]])
    (np.float64(2.0), array([[0., 2.]]))
    """
    error = _error(backend, prediction, target)
    return backend.xp.mean(error * error), error * (2 / _count(error))


def mean_absolute(backend: Backend, prediction: Array, target: Array) -> tuple[Array, Array]:
    """Compute the mean of ``|prediction - target|`` over all elements; the gradient is 0 where they are equal.

    Examples
    --------
    >>> mean_absolute([[1.0, 3.0]], [[1.0, 1.0]])
    (np.float64(1.0), array([[0. , 0.5]]))
    """
    error = _error(backend, prediction, target)
    return backend.xp.mean(backend.xp.abs(error)), backend.xp.sign(error) / _count(error)


def huber(backend: Backend, prediction: Array, target: Array, delta: float = 1.0) -> tuple[Array, Array]:
    """Compute the mean of ``e^2/2`` where ``|e| <= delta``, else ``delta (|e| - delta/2)``, and its gradient.

    P. Huber, Robust Estimation of a Location Parameter, 1964; e is prediction - target.

    Examples
    --------
    >>> huber([[1.0, 3.0]], [[1.5, 1.0]])
    (np.float64(0.8125), array([[-0.25,  0.5 ]]))
    """
    check_number("delta", delta, "a number above 0", lambda number: number > 0)
    error = _error(backend, prediction, target)
    inside = backend.xp.clip(error, -delta, delta)
    return backend.xp.mean(inside * (error - inside / 2)), inside / _count(error)


REGRESSION = {"mse": mean_squared, "mae": mean_absolute, "huber": huber}
"""The losses that a forecaster can be trained with, by name."""


def _error(backend: Backend, prediction: Array, target: Array) -> Array:
    """Return the difference of two arrays after checking that they match."""
    prediction = backend.require("prediction", prediction, any_shape(prediction))
    target = backend.require("target", target, tuple(prediction.shape))
    if target.dtype != prediction.dtype:
        raise InputError(f"target has dtype {target.dtype}; expected {prediction.dtype}, as prediction")
    if not is_float(prediction):
        raise InputError(f"prediction has dtype {prediction.dtype}; expected a float dtype")
    if 0 in prediction.shape:
        raise InputError(f"prediction has shape {tuple(prediction.shape)}; expected at least one element")
    return prediction - target


def _count(array: Array) -> int:
    return math.prod(array.shape)
