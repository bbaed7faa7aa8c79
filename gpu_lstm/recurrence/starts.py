"""Where every tier begins: states before the first step, gradients after the last one."""

from __future__ import annotations

from typing import Any

from gpu_lstm.backend import Array, Backend


def states_at_the_start(h: Array, c: Array, h0: Array | None, c0: Array | None, reverse: bool) -> None:
    """Set the initial slots of h (T+1, B, P) and c (T+1 or 1, B, H); None is zero."""
    first = -1 if reverse else 0
    h[first, ...] = 0 if h0 is None else h0
    c[first, ...] = 0 if c0 is None else c0


def gradients_at_the_end(
    backend: Backend,
    h_shape: tuple[int, ...],
    c_shape: tuple[int, ...],
    dtype: Any,
    dh_last: Array | None,
    dc_last: Array | None,
) -> tuple[Array, Array]:
    """Memory for the gradients of h and c, filled with those of the final state; None is zero."""
    if dh_last is None and dc_last is None and h_shape == c_shape:
        both = backend.xp.zeros((2, *h_shape), dtype=dtype)  # one launch
        return both[0, ...], both[1, ...]
    dh, dc = (backend.xp.empty(shape, dtype=dtype) for shape in (h_shape, c_shape))
    dh[...] = 0 if dh_last is None else dh_last
    dc[...] = 0 if dc_last is None else dc_last
    return dh, dc


def gradients_of_steps(
    backend: Backend, name: str, gradients: Array | None, shape: tuple[int, ...], dtype: str
) -> Array | None:
    """Gradients that arrive at all steps, checked; without gaps, which one direction's part of a wider array has."""
    if gradients is None:
        return None
    backend.require(name, gradients, shape, dtype)
    return backend.xp.ascontiguousarray(gradients)
