"""Cross-entropy of few classes, where rows count differently."""

from __future__ import annotations

import math

from gpu_lstm.backend import Array, Backend


def weighted_cross_entropy(backend: Backend, logits: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
    """Compute the mean of -w log softmax(logits)[target] over all rows, and its gradient.

    Parameters
    ----------
    backend : Backend
    logits : (..., V)
    targets : (...) integers in 0..V-1, or any where the weight is 0
    weights : (...), of the logits' dtype
        How much each row counts; with a mean of 1 the loss is as large as without.

    Returns
    -------
    loss : array of shape ()
        In nats.
    dlogits : (..., V)
    """
    xp = backend.xp
    hit = targets[..., None] == xp.arange(logits.shape[-1], dtype=targets.dtype)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    powers = xp.exp(shifted)
    total = xp.sum(powers, axis=-1, keepdims=True)
    own = xp.sum(xp.where(hit, shifted, xp.zeros_like(shifted)), axis=-1)
    share = weights / math.prod(targets.shape)
    loss = xp.sum(share * (xp.log(total[..., 0]) - own))
    return loss, share[..., None] * (powers / total - xp.astype(hit, logits.dtype))
