"""What an LSTM's forward and backward are given: checked, and on the backend, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.recurrence import Mask

State = tuple[Array, Array]
"""h and c, (num_layers * num_directions, B, P) and (.., B, H), in PyTorch's order: layer 0 forward, layer 0 reverse."""


@dataclass(frozen=True)
class Sizes:
    """What all members of an LSTM share: where its arrays live, and how wide they are."""

    backend: Backend
    dtype: str
    param_dtype: str
    input_size: int
    hidden_size: int
    output_size: int  # P, width of h: that of the projection, or H
    num_layers: int
    num_directions: int
    batch_first: bool

    def width(self, layer: int) -> int:
        """Return the width of a layer's input."""
        return self.input_size if layer == 0 else self.output_size * self.num_directions

    def state(self, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the shapes of h and c of a `State`."""
        members = self.num_layers * self.num_directions
        return (members, batch, self.output_size), (members, batch, self.hidden_size)


@dataclass
class Call:
    """What holds for all layers in one call of forward, and for its backward."""

    steps: int
    batch: int
    mask: Mask | None
    resets: np.ndarray | None  # (T, B) bool array on the host, or None
    seed: tuple[int, ...] | None  # None: evaluation
    keep: bool  # whether backward will follow


def check_forward(
    sizes: Sizes, x: Array, lengths: Any, resets: Any, seed: tuple[int, ...] | None, keep: bool
) -> tuple[Array, Call]:
    """x as (T, B, input_size), zero after each sequence's end, and the rest.

    Raises
    ------
    InputError
        An argument has the wrong shape, dtype, device or value.
    """
    backend = sizes.backend
    order = ("B", "T") if sizes.batch_first else ("T", "B")
    x = backend.require("x", x, (*order, f"input_size={sizes.input_size}"), sizes.dtype)
    if 0 in x.shape:
        raise InputError(f"x has shape {tuple(x.shape)}; expected at least one step and one sequence")
    if sizes.batch_first:
        x = swap_batch_and_time(backend, x)
    num_steps, batch, _ = x.shape
    mask = check_lengths(backend, lengths, num_steps, batch)
    call = Call(num_steps, batch, mask, _check_resets(sizes, resets, num_steps, batch), seed, keep)
    return valid(backend.xp, mask, x), call


def check_state(sizes: Sizes, names: tuple[str, str], state: Any, batch: int) -> tuple[Array | None, Array | None]:
    """A pair of state arrays, either of which may be None, as may be the pair.

    Raises
    ------
    InputError
        `state` is no pair, or one of its arrays doesn't fit.
    """
    state = (None, None) if state is None else state
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise InputError(f"state is {type(state).__name__}; expected a pair ({', '.join(names)})")
    kinds = zip(names, state, sizes.state(batch), (sizes.dtype, sizes.param_dtype), strict=True)
    h, c = (
        None if array is None else sizes.backend.require(name, array, shape, dtype)
        for name, array, shape, dtype in kinds
    )
    return h, c


def check_dy(sizes: Sizes, cells: bool, dy: Any, call: Call) -> tuple[Array | None, Array | None]:
    """Gradients of h and, with `cells`, of c of every step, (T, B, .) each.

    Raises
    ------
    InputError
        `dy` doesn't fit y.
    """
    if cells and dy is not None and (not isinstance(dy, tuple | list) or len(dy) != 2):
        raise InputError(f"dy is a {type(dy).__name__}; expected a pair (dh, dc), like y with cells=True")
    arrays = list(dy) if cells and dy is not None else [dy, None]
    names = ("dy[0]", "dy[1]") if cells else ("dy", "")
    order = (call.batch, call.steps) if sizes.batch_first else (call.steps, call.batch)
    kinds = (sizes.output_size, sizes.dtype), (sizes.hidden_size, sizes.param_dtype)
    for place, (name, (size, dtype)) in enumerate(zip(names, kinds, strict=True)):
        if arrays[place] is not None:
            shape = (*order, size * sizes.num_directions)
            arrays[place] = sizes.backend.require(name, arrays[place], shape, dtype)
            if sizes.batch_first:
                arrays[place] = swap_batch_and_time(sizes.backend, arrays[place])
    return arrays[0], arrays[1]


def check_lengths(
    backend: Backend, lengths: Sequence[int] | np.ndarray | None, num_steps: int, batch: int
) -> Mask | None:
    """The batch's mask, or None where every sequence has all steps.

    Raises
    ------
    InputError
        `lengths` are no B whole numbers in 0..T.
    """
    if lengths is None:
        return None
    try:
        host = _on_host(backend, "lengths", lengths)
    except InputError:
        raise
    except ValueError:
        raise InputError(
            f"lengths is a {type(lengths).__name__} of no regular shape; expected {batch} of them"
        ) from None
    if isinstance(lengths, np.ma.MaskedArray):
        raise InputError("lengths is a masked array; expected whole numbers")
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


def _check_resets(sizes: Sizes, resets: Any, num_steps: int, batch: int) -> np.ndarray | None:
    """The resets on the host, (T, B); None where there are none."""
    if resets is None:
        return None
    host = _on_host(sizes.backend, "resets", resets)
    shape = (batch, num_steps) if sizes.batch_first else (num_steps, batch)
    if host.shape != shape or host.dtype != np.bool_:
        raise InputError(f"resets has shape {host.shape} and dtype {host.dtype}; expected {shape} of bool")
    return np.array(host.T if sizes.batch_first else host, order="C")


def _on_host(backend: Backend, name: str, value: Any) -> np.ndarray:
    """A sequence, or an array of the host or of the backend's device, as an array of the host."""
    if value in backend or hasattr(value, "__cuda_array_interface__"):
        value = backend.to_numpy(backend.require(name, value))
    return np.asarray(value)


def swap_batch_and_time(backend: Backend, array: Array) -> Array:
    """Copy of (B, T, N) as (T, B, N) or back, C-contiguous: a copy of the transposed view would keep its strides."""
    return copied(backend, backend.xp.permute_dims(array, (1, 0, 2)))


def copied(backend: Backend, array: Array) -> Array:
    """A C-contiguous copy, in memory that the backend keeps for such."""
    copy = backend.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def stacked(xp: Any, arrays: Sequence[Array]) -> Array:
    """Copies of arrays of one shape along a new first axis; CuPy's `stack` takes addresses from the host for many."""
    whole = xp.empty((len(arrays), *arrays[0].shape), dtype=arrays[0].dtype)
    for place, array in enumerate(arrays):
        whole[place, ...] = array
    return whole


def valid(xp: Any, mask: Mask | None, array: Array) -> Array:
    """`array` within each sequence's steps, zero outside."""
    if mask is None:
        return array
    # CuPy's `where` knows no bfloat16 and makes float32 of it.
    return xp.astype(xp.where(mask.valid, array, xp.zeros_like(array)), array.dtype, copy=False)
