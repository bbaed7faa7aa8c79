"""What layers, models and optimizers are made with: checked once, at their making."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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


def check_flag(name: str, value: bool) -> bool:
    """Return an argument that is True or False; InputError where it is another thing, which may mean no."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def check_number(name: str, value: Any, expected: str, fits: Callable[[float], bool]) -> float:
    """Return a number if it fits; InputError, which says what is expected, where it doesn't or is no number."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.integer | np.floating)
        or not fits(float(value))
    ):
        raise InputError(f"{name} is {value!r}; expected {expected}")
    return float(value)


def check_positive(name: str, value: float) -> float:
    """Return a finite number above 0; InputError where it is another thing."""
    return check_number(name, value, "a number above 0", lambda number: 0 < number < math.inf)


def check_probability(name: str, value: float, kind: str = "probability") -> float:
    """Return a number, of dropout a probability, if it is in [0, 1); InputError where it is another thing."""
    return check_number(name, value, f"a {kind} in [0, 1)", lambda number: 0 <= number < 1)


def check_share(name: str, value: float) -> float:
    """Return a share if it is in (0, 1); InputError where it is another thing."""
    return check_number(name, value, "a share between 0 and 1", lambda number: 0 < number < 1)
