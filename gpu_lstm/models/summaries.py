"""What a model of whole sequences makes of an LSTM's outputs: one vector of each sequence; and what it feeds the LSTM.

Each way to sum up is two functions: of the outputs y (T, B, W), and back, of the gradient of what it gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.backend import Array, Backend, widened
from gpu_lstm.errors import InputError

POOLING = ("mean", "max", "last")
"""Over a sequence's own steps: the mean of the outputs, the largest of each, and each direction's last one."""


class Pooled(NamedTuple):
    """A summary (B, P W) of the outputs, and what its gradient needs besides."""

    summary: Array
    share: Any  # (1, B, 1): 1/length
    places: Array | None  # (B, W): the step at which each output is largest


def check_pooling(pooling: Sequence[str]) -> tuple[str, ...]:
    """Return ways to sum up, in the order of `POOLING`.

    Raises InputError where there is none, or one that isn't known.
    """
    unknown = [name for name in pooling if name not in POOLING]
    if isinstance(pooling, str) or unknown or not pooling:
        raise InputError(f"pooling is {pooling!r}; expected some of {', '.join(POOLING)}")
    return tuple(name for name in POOLING if name in pooling)


def summed_up(
    backend: Backend, pooling: tuple[str, ...], y: Array, last: Array, lengths: np.ndarray, dtypes: tuple[str, str]
) -> Pooled:
    """Sum up outputs y (T, B, W) that are zero beyond each sequence's end.

    Parameters
    ----------
    backend : Backend
    pooling : names of `POOLING`
    y : (T, B, W)
    last : (directions, B, W / directions)
        The last output of each direction.
    lengths : (B,) integers, on the host
    dtypes : of the summary, and of sums
    """
    steps = np.asarray(lengths, dtype=np.float64)
    if steps.min() < 1:
        raise InputError("lengths has a 0; expected at least 1, for a sequence of no steps has no mean")
    xp, (dtype, wide) = backend.xp, dtypes
    share, places = backend.asarray((1 / steps)[None, :, None], wide), None
    parts = []
    if "mean" in pooling:  # y is zero after a sequence's end, so the scaled sum is the mean
        parts.append(backend.asarray(xp.sum(widened(backend, y) * share, axis=0), dtype))
    if "max" in pooling:
        inside = backend.asarray(np.arange(y.shape[0])[:, None] < np.asarray(lengths)[None, :])
        own = xp.where(inside[:, :, None], widened(backend, y), -xp.inf)
        parts.append(backend.asarray(xp.max(own, axis=0), dtype))
        places = xp.argmax(own, axis=0)
    if "last" in pooling:
        parts += [last[k] for k in range(last.shape[0])]
    summary = parts[0] if len(parts) == 1 else xp.concat(parts, axis=1)
    return Pooled(summary, share, places)


def taken_apart(
    backend: Backend, pooling: tuple[str, ...], pooled: Pooled, dsummary: Array, y: Array, dlast: Array, dtype: str
) -> Array:
    """Return the gradient of y from that of its summary; that of the last outputs goes into `dlast`, zeros before."""
    xp, width = backend.xp, y.shape[2]
    dy, start = None, 0
    if "mean" in pooling:
        dy = backend.asarray(widened(backend, dsummary[:, :width])[None, ...] * pooled.share, dtype)
        dy, start = dy + xp.zeros_like(y), width
    if "max" in pooling:
        steps = xp.arange(y.shape[0], dtype=pooled.places.dtype)[:, None, None]  # type: ignore[union-attr]
        part = dsummary[:, start : start + width][None, ...]
        dmax = xp.where(steps == pooled.places[None, ...], part, xp.zeros_like(part))  # type: ignore[index]
        dy, start = dmax if dy is None else dy + dmax, start + width
    if "last" in pooling:
        size = dlast.shape[2]
        for k in range(dlast.shape[0]):
            dlast[k, ...] = dsummary[:, start + k * size : start + (k + 1) * size]
    return xp.zeros_like(y) if dy is None else dy


def framed(x: np.ndarray, lengths: np.ndarray, window: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Put `window` steps beside each other, every `stride` steps: x (T, B, D) becomes (T', B, window D).

    A sequence's last frames repeat its last step. Returns x and lengths (B,), rounded up.
    """
    if window == stride == 1:
        return x, lengths
    if lengths.min() < 1 or lengths.max() > len(x):
        raise InputError(f"lengths has values {lengths.min()}..{lengths.max()}; expected 1..T={len(x)}")
    count = -(-lengths // stride)
    places = np.arange(int(count.max()))[:, None, None] * stride + np.arange(window)
    places = np.minimum(places, np.asarray(lengths)[None, :, None] - 1)
    frames = x[places, np.arange(x.shape[1])[None, :, None]]
    return frames.reshape(len(frames), x.shape[1], window * x.shape[2]), count
