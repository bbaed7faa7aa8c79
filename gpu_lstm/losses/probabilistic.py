"""The losses of forecasts that say how sure they are: of quantiles, and of distributions by location and scale.

A prediction has one axis more than its target, the last but one: a part for each quantile, or location and scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import any_shape
from gpu_lstm.losses.cross_entropy import is_float

LOG_SCALES = (-7.0, 7.0)
"""Logarithms of a scale are held to this range: none is zero, none overflows."""


def pinball(backend: Backend, prediction: Array, target: Array, levels: Sequence[float]) -> tuple[Array, Array]:
    """Compute the mean of max(q e, (q - 1) e), e = target - prediction, and its gradient (R. Koenker, 1978).

    Parameters
    ----------
    backend : Backend
    prediction : (..., Q, K)
    target : (..., K)
    levels : Q numbers in (0, 1)

    Returns
    -------
    loss : array of shape ()
    dprediction : (..., Q, K)
        0 where a quantile is met.
    """
    parts = _parts(backend, prediction, target, len(levels))
    xp, count = backend.xp, math.prod(prediction.shape)
    total, gradients = 0, []
    for level, part in zip(levels, parts, strict=True):
        error = target - part
        total = total + xp.sum((level - 0.5) * error + 0.5 * xp.abs(error))
        gradients.append(((0.5 - level) * xp.abs(xp.sign(error)) - 0.5 * xp.sign(error)) / count)
    return total / count, xp.stack(gradients, axis=-2)


def gaussian(backend: Backend, prediction: Array, target: Array) -> tuple[Array, Array]:
    """Compute the mean of -log p(target) in nats, and its gradient, p normal by location and logarithm of the scale.

    `prediction` is (..., 2, K), `target` (..., K).
    """
    z, log_scale, inverse, inside = _standardised(backend, prediction, target)
    count = math.prod(target.shape)
    loss = backend.xp.mean(0.5 * z * z + log_scale) + 0.5 * math.log(2 * math.pi)
    return loss, backend.xp.stack([-z * inverse / count, inside * (1 - z * z) / count], axis=-2)


FREEDOM = 4
"""Degrees of freedom of `student`: tails that a few large errors fit, and quantiles in closed form."""


def student(backend: Backend, prediction: Array, target: Array) -> tuple[Array, Array]:
    """Compute as `gaussian`, p Student's t of 4 degrees of freedom: one wild value moves it less."""
    xp = backend.xp
    z, log_scale, inverse, inside = _standardised(backend, prediction, target)
    count, power = math.prod(target.shape), (FREEDOM + 1) / 2
    constant = math.lgamma(FREEDOM / 2) - math.lgamma(power) + 0.5 * math.log(FREEDOM * math.pi)
    loss = xp.mean(power * xp.log1p(z * z / FREEDOM) + log_scale) + constant
    pull = (FREEDOM + 1) * z / (FREEDOM + z * z)
    return loss, xp.stack([-pull * inverse / count, inside * (1 - pull * z) / count], axis=-2)


def normal_quantile(level: float) -> float:
    """Of the standard normal distribution."""
    return NormalDist().inv_cdf(level)


def student_quantile(level: float) -> float:
    """Of Student's t of 4 degrees of freedom, in closed form (W. Shaw, 2006)."""
    alpha = 4 * level * (1 - level)
    root = math.cos(math.acos(math.sqrt(alpha)) / 3) / math.sqrt(alpha)
    return math.copysign(2 * math.sqrt(max(0.0, root - 1)), level - 0.5)


DISTRIBUTIONS: dict[str, tuple[Callable[..., tuple[Array, Array]], Callable[[float], float]]] = {
    "gaussian": (gaussian, normal_quantile),
    "student": (student, student_quantile),
}
"""By name: the loss of a distribution and its standard quantiles."""


def _standardised(backend: Backend, prediction: Array, target: Array) -> tuple[Array, Array, Array, Array]:
    """Errors in units of the scale, its logarithm, 1 over it, and 1 where the logarithm isn't held back, else 0."""
    location, given = _parts(backend, prediction, target, 2)
    xp = backend.xp
    log_scale = xp.clip(given, *LOG_SCALES)
    inverse = xp.exp(-log_scale)
    return (target - location) * inverse, log_scale, inverse, xp.astype(given == log_scale, given.dtype)


def _parts(backend: Backend, prediction: Array, target: Array, count: int) -> list[Array]:
    """Take a prediction apart after checking that it fits the target."""
    target = backend.require("target", target, any_shape(target))
    wanted = (*target.shape[:-1], count, *target.shape[-1:])
    prediction = backend.require("prediction", prediction, wanted)
    if target.dtype != prediction.dtype or not is_float(prediction):
        raise InputError(f"prediction has dtype {prediction.dtype}, target {target.dtype}; expected one float dtype")
    if 0 in prediction.shape:
        raise InputError(f"prediction has shape {tuple(prediction.shape)}; expected at least one element")
    return [prediction[..., k, :] for k in range(count)]
