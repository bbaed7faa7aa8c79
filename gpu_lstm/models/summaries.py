"""What models of whole sequences are told: which summaries of the LSTM's outputs to take, and the frames it reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_lstm.errors import InputError

POOLING = ("mean", "max", "last")
"""Ways of `gpu_lstm.layers.Pool`, in the order in which a model has them."""


def check_pooling(pooling: Sequence[str]) -> tuple[str, ...]:
    """Return ways to sum up, in the order of `POOLING`.

    Raises InputError where there is none, or one that isn't known.
    """
    several = isinstance(pooling, list | tuple) and len(pooling) > 0
    if not several or any(not isinstance(name, str) or name not in POOLING for name in pooling):
        raise InputError(f"pooling is {pooling!r}; expected some of {', '.join(POOLING)}")
    return tuple(name for name in POOLING if name in pooling)


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
