"""The loss of classes and tokens: cross-entropy of a softmax."""

from __future__ import annotations

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import any_shape
from gpu_lstm.layers.checks import check_size


def softmax_cross_entropy(
    backend: Backend, logits: Array, targets: Array, ignore_index: int | None = None, *, overwrite: bool = False
) -> tuple[Array, Array]:
    """Compute the mean of -log softmax(logits)[target] over all targets that count, and its gradient.

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

    Examples
    --------
    >>> loss, dlogits = softmax_cross_entropy(np.zeros((2, 4)), np.array([3, 0]))
    >>> round(float(loss), 4), dlogits[0].tolist()
    (1.3863, [0.125, 0.125, 0.125, -0.375])
    """
    if ignore_index is not None:
        check_size("ignore_index", ignore_index, -(2**31))
    xp = backend.xp
    logits = backend.require("logits", logits, (*any_shape(logits)[1:], "V"))
    vocabulary = logits.shape[-1]
    if not is_float(logits) or vocabulary == 0:
        given = f"dtype {logits.dtype} and V={vocabulary}"
        raise InputError(f"logits has {given}; expected a float dtype and V of at least 1")
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


def is_float(array: Array) -> bool:
    """Return whether an array holds floating-point numbers, by name: namespaces don't know bfloat16."""
    return str(array.dtype).rpartition(".")[2].startswith(("float", "bfloat", ">f", "<f"))
