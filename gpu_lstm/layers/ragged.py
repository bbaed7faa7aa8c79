"""Sequences of different lengths, and of several episodes: what `lengths` and `resets` give, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.call import Sizes
from gpu_lstm.recurrence import Mask


def check_lengths(backend: Backend, lengths: Any, num_steps: int, batch: int) -> Mask | None:
    """The batch's mask, or None where every sequence has all steps."""
    if isinstance(lengths, np.ma.MaskedArray):
        raise InputError("lengths is a masked array; expected whole numbers")
    host = _on_host(backend, "lengths", lengths)
    if host.shape != (batch,) or not np.issubdtype(host.dtype, np.integer):
        raise InputError(
            f"lengths has shape {host.shape} and dtype {host.dtype}; expected {batch} whole numbers, one a sequence"
        )
    if host.min() < 0 or host.max() > num_steps:
        raise InputError(f"lengths has values {host.min()}..{host.max()}; expected 0..T={num_steps}")
    if host.min() == num_steps:
        return None
    inside = np.arange(num_steps)[:, None, None] < host[None, :, None]
    return Mask(host.astype(np.int64), backend.asarray(inside, "bool"))


def check_resets(sizes: Sizes, resets: Any, num_steps: int, batch: int) -> np.ndarray:
    """The resets on the host, (T, B)."""
    host = _on_host(sizes.backend, "resets", resets)
    shape = (batch, num_steps) if sizes.batch_first else (num_steps, batch)
    if host.shape != shape or host.dtype != np.bool_:
        raise InputError(f"resets has shape {host.shape} and dtype {host.dtype}; expected {shape} of bool")
    return np.array(host.T if sizes.batch_first else host, order="C")


def _on_host(backend: Backend, name: str, value: Any) -> np.ndarray:
    """A sequence, or an array of the host or of the backend's device, as an array of the host."""
    if value in backend or hasattr(value, "__cuda_array_interface__"):
        value = backend.to_numpy(backend.require(name, value))
    try:
        return np.asarray(value)
    except ValueError:
        raise InputError(f"{name} is a {type(value).__name__} of no regular shape; expected an array") from None
