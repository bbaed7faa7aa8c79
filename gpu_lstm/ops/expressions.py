"""Operations as expressions of any standard array namespace, which the compiled ones must reproduce."""

from __future__ import annotations

from typing import Any

from gpu_lstm.backend import Array


def cross_entropy(xp: Any, logits: Array, targets: Array, ignore_index: int | None) -> Array:
    """Return what `gpu_lstm.ops.Arrays.softmax_cross_entropy` does, of targets in range."""
    counts = None
    if ignore_index is not None:
        counts = targets != ignore_index
        targets = xp.where(counts, targets, xp.zeros_like(targets))
    logits -= xp.max(logits, axis=1, keepdims=True)
    hit = xp.arange(logits.shape[1], dtype=targets.dtype)[None, :] == targets[:, None]
    picked = xp.sum(xp.where(hit, logits, xp.zeros_like(logits)), axis=1)
    gradient = xp.exp(logits)
    total = xp.sum(gradient, axis=1)
    losses = xp.log(total) - picked
    gradient /= total[:, None]
    gradient -= xp.astype(hit, logits.dtype)
    if counts is None:
        number = float(targets.shape[0])
    else:
        number = float(xp.sum(xp.astype(counts, logits.dtype)))
        losses = xp.where(counts, losses, xp.zeros_like(losses))
        gradient = xp.where(counts[:, None], gradient, xp.zeros_like(gradient))
    gradient /= max(number, 1.0)
    logits[...] = gradient
    return xp.sum(losses) / max(number, 1.0)


def sum_rows(xp: Any, rows: Array, dtype: Any = None) -> Array:
    """Return the sum over the first axis of (N, M), in blocks of 64 rows and then over them: rounding errors stay
    small. The sums have `dtype`, if given."""
    dtype = rows.dtype if dtype is None else dtype
    whole = rows.shape[0] // 64 * 64
    if not whole:
        return xp.sum(rows, axis=0, dtype=dtype)
    blocks = xp.reshape(rows[:whole, :], (whole // 64, 64, rows.shape[1]))
    total = xp.sum(xp.sum(blocks, axis=1, dtype=dtype), axis=0)
    if whole < rows.shape[0]:
        total += xp.sum(rows[whole:, :], axis=0, dtype=dtype)
    return total
