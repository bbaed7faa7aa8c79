"""What all layers share: parameters by name, and the tape that forward hands to backward.

A layer is::

    y, tape = layer.forward(x)
    dx, gradients = layer.backward(tape, dy)

``layer.params`` and ``gradients`` are dictionaries with the same keys and shapes. A layer keeps nothing of a
call: what backward needs is on the tape, and a tape is used once, because backward may overwrite its arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm.backend import DTYPES, Array, Backend, choose
from gpu_lstm.errors import InputError

Params = dict[str, Array]
"""Arrays by parameter name."""


class Tape:
    """What a forward call saved for its backward call, readable once.

    Parameters
    ----------
    values : Any
        Whatever the layer needs; no other layer reads it.
    """

    def __init__(self, *values: Any):
        self._values: tuple[Any, ...] | None = values

    def take(self) -> tuple[Any, ...]:
        """The saved values; the tape is spent afterwards.

        Raises
        ------
        InputError
            The tape was already used by a backward call.
        """
        if self._values is None:
            raise InputError("tape was already used by a backward call; run forward again to make another")
        values, self._values = self._values, None
        return values


class Layer:
    """Base of the layers: a backend, a dtype, named parameters."""

    def __init__(self, backend: str | Backend | None, dtype: str):
        self.backend = choose(backend)
        self.dtype = check_dtype(dtype)
        self.params: Params = {}

    def add_uniform(self, name: str, shape: tuple[int, ...], bound: float, rng: np.random.Generator) -> None:
        """Add a parameter, uniform in [-bound, bound]; drawn on the host so that all backends start equal."""
        self.params[name] = self.backend.asarray(rng.uniform(-bound, bound, shape).astype(self.dtype), self.dtype)


def check_dtype(dtype: str) -> str:
    """Return the dtype's name if it is one to compute in.

    Raises
    ------
    InputError
        It is none of float32, float64.
    """
    name = str(dtype)
    if name not in DTYPES:
        raise InputError(f"dtype is {name}; expected one of {', '.join(DTYPES)}")
    return name


def check_size(name: str, value: int) -> int:
    """Return a size argument if it is a whole number of at least 1.

    Raises
    ------
    InputError
        It isn't.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {value!r}; expected a whole number of at least 1")
    return int(value)


def check_probability(name: str, value: float) -> float:
    """Return a dropout probability if it is in [0, 1).

    Raises
    ------
    InputError
        It isn't.
    """
    if not 0 <= value < 1:
        raise InputError(f"{name} is {value!r}; expected a probability in [0, 1)")
    return float(value)


def any_shape(x: Any) -> tuple[str, ...]:
    """A shape for `Backend.require` that allows any size on each of x's axes."""
    rank = getattr(x, "ndim", 0)
    return tuple(f"N{axis}" for axis in range(rank)) if isinstance(rank, int) else ()
