"""Losses: each returns the mean loss and its gradient with respect to the prediction, in one call.

What they are given stays as it is, unless `softmax_cross_entropy` is told to overwrite it.
"""

from __future__ import annotations

import math

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import any_shape

BITS = 1 / math.log(2)
"""Bits in a nat."""


def softmax_cross_entropy(
    backend: Backend, logits: Array, targets: Array, ignore_index: int | None = None, *, overwrite: bool = False
) -> tuple[Array, Array]:
    """Mean of -log softmax(logits)[target] over all targets that count.

    Parameters
    ----------
    backend : Backend
    logits : (..., V)
    targets : (...), integers in 0..V-1, or `ignore_index`
    ignore_index : int, optional
        Targets of this value neither count nor get a gradient.
    overwrite : bool
        Make the gradient in the memory of `logits`, which saves a copy.

    Returns
    -------
    loss : array of shape ()
        In nats. 0 where no target counts.
    dlogits : (..., V)

    Raises
    ------
    InputError
        Shapes don't fit, or a target is out of range; on a GPU the latter is told by ``backend.read(loss)``, and such
        targets have loss and gradient 0 until then.
    """
    xp = backend.xp
    logits = backend.require("logits", logits, (*any_shape(logits)[1:], "V"))
    vocabulary = logits.shape[-1]
    if not _is_float(logits) or vocabulary == 0:
        raise InputError(
            f"logits has dtype {logits.dtype} and V={vocabulary}; expected a float dtype and V of at least 1"
        )
    if overwrite and not getattr(getattr(logits, "flags", None), "writeable", True):
        raise InputError("logits is read-only; expected an array to overwrite, or overwrite=False")
    targets = backend.require("targets", targets, tuple(logits.shape[:-1]))
    if not xp.isdtype(targets.dtype, "integral"):
        raise InputError(f"targets has dtype {targets.dtype}; expected integers")
    # A narrow type could count neither to V nor down to ignore_index: uint8 would wrap, 261 hitting target 5.
    flat = xp.astype(xp.reshape(targets, (-1,)), xp.int64, copy=False)
    rows = xp.reshape(logits if overwrite else xp.asarray(logits, copy=True), (-1, vocabulary))
    loss = ops.of(backend).softmax_cross_entropy(rows, flat, ignore_index)
    return loss, xp.reshape(rows, logits.shape)


def mean_squared(backend: Backend, prediction: Array, target: Array) -> tuple[Array, Array]:
    """Mean of (prediction - target)^2 over all elements, and its gradient, shaped like `prediction`."""
    error = _error(backend, prediction, target)
    return backend.xp.mean(error * error), error * (2 / _count(error))


def mean_absolute(backend: Backend, prediction: Array, target: Array) -> tuple[Array, Array]:
    """Mean of |prediction - target| over all elements; the gradient is 0 where they are equal."""
    error = _error(backend, prediction, target)
    return backend.xp.mean(backend.xp.abs(error)), backend.xp.sign(error) / _count(error)


def huber(backend: Backend, prediction: Array, target: Array, delta: float = 1.0) -> tuple[Array, Array]:
    """Mean of e^2/2 where |e| <= delta, else delta (|e| - delta/2) (P. Huber, 1964), and its gradient."""
    if not delta > 0:
        raise InputError(f"delta is {delta!r}; expected a number above 0")
    error = _error(backend, prediction, target)
    inside = backend.xp.clip(error, -delta, delta)
    return backend.xp.mean(inside * (error - inside / 2)), inside / _count(error)


REGRESSION = {"mse": mean_squared, "mae": mean_absolute, "huber": huber}
"""The losses that a forecaster can be trained with, by name."""


def _error(backend: Backend, prediction: Array, target: Array) -> Array:
    """Difference of two arrays after checking that they match."""
    prediction = backend.require("prediction", prediction, any_shape(prediction))
    target = backend.require("target", target, tuple(prediction.shape))
    if target.dtype != prediction.dtype:
        raise InputError(f"target has dtype {target.dtype}; expected {prediction.dtype}, as prediction")
    if not _is_float(prediction):
        raise InputError(f"prediction has dtype {prediction.dtype}; expected a float dtype")
    if 0 in prediction.shape:
        raise InputError(f"prediction has shape {tuple(prediction.shape)}; expected at least one element")
    return prediction - target


def _is_float(array: Array) -> bool:
    """Whether an array holds floating-point numbers, by name: namespaces don't know bfloat16."""
    return str(array.dtype).rpartition(".")[2].startswith(("float", "bfloat", ">f", "<f"))


def _count(array: Array) -> int:
    return math.prod(array.shape)
