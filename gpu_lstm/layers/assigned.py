"""What may be put in a parameter's place: the very array where it fits, a new one of all that holds its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.backend.exchange import foreign
from gpu_lstm.errors import InputError


def fitting(backend: Backend, dtype: str, name: str, value: Any, shape: tuple[int, ...] | None = None) -> Array:
    """Return a value as an array of that dtype: the very array where it fits, else a new one of all its numbers.

    The one rule of what is converted because it is harmless: lists, other dtypes, byte orders and gaps, arrays of the
    host and of other libraries.

    Raises InputError where the value has another shape, if one is given, or what are no real numbers that the dtype can
    hold.
    """
    if isinstance(value, list | tuple | np.ndarray):
        if isinstance(value, np.ndarray) and type(value) not in (np.ndarray, np.memmap):
            raise foreign(name, value, backend.name)  # other kinds have a meaning of their own: a mask, units
        try:
            value = np.asarray(value)
        except ValueError:
            raise InputError(f"{name} has no regular shape; expected {shape or 'an array'}") from None
    else:
        value = backend.require(name, value)
    if shape is None:
        shape = tuple(value.shape)
    if tuple(value.shape) != shape:
        raise InputError(f"{name} has shape {tuple(value.shape)}; expected {shape}")
    kind = getattr(value.dtype, "name", str(value.dtype)).rpartition(".")[2]
    if not kind.startswith(("float", "bfloat", "longdouble", "int", "uint")):
        raise InputError(f"{name} has dtype {value.dtype}; expected real numbers, as {dtype}")
    flags = getattr(value, "flags", None)
    plain = all(getattr(flags, flag, True) for flag in ("c_contiguous", "aligned", "writeable"))
    if value in backend and value.dtype == backend.dtype(dtype) and plain:
        return value
    if isinstance(value, np.ndarray):
        try:
            with np.errstate(over="raise"):
                value = np.array(value, dtype, order="C")
        except FloatingPointError:
            raise InputError(f"{name} has numbers that are too large for {dtype}") from None
        return backend.asarray(value, dtype)
    array = backend.xp.empty(shape, dtype=backend.dtype(dtype))
    array[...] = backend.asarray(value, dtype)
    return array


def whole(backend: Backend, name: str, value: Any) -> Array:
    """Return whole numbers, in an array, a list or another library's, as an array of the backend.

    Raises InputError where the value holds something else.
    """
    if isinstance(value, list | tuple | np.ndarray | np.integer | int):
        try:
            value = np.asarray(value)
        except ValueError:
            raise InputError(f"{name} has no regular shape; expected whole numbers") from None
        if value.dtype.kind in "iu":
            return backend.asarray(value)
    else:
        value = backend.require(name, value)
        if backend.xp.isdtype(value.dtype, "integral"):
            return value
    raise InputError(f"{name} has dtype {value.dtype}; expected whole numbers")
