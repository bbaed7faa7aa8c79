"""What an LSTM's forward and backward are given: checked, and on the backend, before anything is computed.

What doesn't fit is an InputError that names the argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.call import Call, Sizes
from gpu_lstm.layers.ragged import check_lengths, check_resets
from gpu_lstm.recurrence import Mask


def check_forward(
    sizes: Sizes, x: Array, lengths: Any, resets: Any, seed: tuple[int, ...] | None, keep: bool
) -> tuple[Array, Call]:
    """x as (T, B, input_size), zero after each sequence's end, and the rest."""
    backend = sizes.backend
    order = ("B", "T") if sizes.batch_first else ("T", "B")
    x = backend.require("x", x, (*order, f"input_size={sizes.input_size}"), sizes.dtype)
    if 0 in x.shape:
        raise InputError(f"x has shape {tuple(x.shape)}; expected at least one step and one sequence")
    if sizes.batch_first:
        x = swapped(backend, x)
    num_steps, batch, _ = x.shape
    mask = None if lengths is None else check_lengths(backend, lengths, num_steps, batch)
    begins = None if resets is None else check_resets(sizes, resets, num_steps, batch)
    return valid(backend.xp, mask, x), Call(num_steps, batch, mask, begins, seed, keep)


def check_state(sizes: Sizes, name: str, state: Any, batch: int) -> tuple[Array | None, Array | None]:
    """A pair of arrays, ``state`` or ``dstate``, either of which may be None, as may be the pair."""
    names = ("dh", "dc") if name == "dstate" else ("h0", "c0")
    state = (None, None) if state is None else state
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise InputError(f"{name} is {type(state).__name__}; expected a pair ({', '.join(names)})")
    kinds = zip(names, state, sizes.state(batch), (sizes.dtype, sizes.param_dtype), strict=True)
    h, c = (None if given[1] is None else sizes.backend.require(*given) for given in kinds)
    return h, c


def check_dy(sizes: Sizes, cells: bool, dy: Any, call: Call) -> tuple[Array | None, Array | None]:
    """Gradients of h and, with `cells`, of c of every step, (T, B, .) each."""
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
                arrays[place] = swapped(sizes.backend, arrays[place])
    return arrays[0], arrays[1]


def swapped(backend: Backend, array: Array) -> Array:
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
