"""What layers, models and optimizers are made with: checked once, at their making."""

from __future__ import annotations

import numpy as np

from gpu_lstm.backend import DTYPES
from gpu_lstm.errors import InputError


def check_dtype(dtype: str, among: tuple[str, ...] = DTYPES) -> str:
    """Return the dtype's name if it is one to compute in.

    Raises InputError where the dtype is none of `among`.
    """
    name = str(dtype)
    if name not in among:
        raise InputError(f"dtype is {name}; expected one of {', '.join(among)}")
    return name


def check_size(name: str, value: int) -> int:
    """Return a size argument if it is a whole number of at least 1.

    Raises InputError where the size is another thing.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {value!r}; expected a whole number of at least 1")
    return int(value)


def check_probability(name: str, value: float, kind: str = "probability") -> float:
    """Return a number, of dropout a probability, if it is in [0, 1).

    Raises InputError where it is another number.
    """
    if not 0 <= value < 1:
        raise InputError(f"{name} is {value!r}; expected a {kind} in [0, 1)")
    return float(value)


def check_share(name: str, value: float) -> float:
    """Return a share if it is in (0, 1).

    Raises
    ------
    InputError
        The value is not in (0, 1).
    """
    if not 0 < value < 1:
        raise InputError(f"{name} is {value!r}; expected a share between 0 and 1")
    return float(value)
