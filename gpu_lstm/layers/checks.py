"""What layers, models and optimizers are made with: checked once, at their making."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
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


def check_size(name: str, value: int, least: int = 1) -> int:
    """Return a size argument if it is a whole number of at least `least`, which 31 bits hold.

    Raises InputError where the size is another thing.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value < 2**31:
        raise InputError(f"{name} is {value!r}; expected a whole number of at least {least}, below 2^31")
    return int(value)


def check_flag(name: str, value: bool) -> bool:
    """Return a switch if it is True or False; raises InputError where it is another thing, such as "no"."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def check_choice(name: str, value: str, among: Iterable[str]) -> str:
    """Return a word if it is one of those; raises InputError where it is another thing."""
    if not isinstance(value, str) or value not in among:
        raise InputError(f"{name} is {value!r}; expected one of {', '.join(among)}")
    return value


def is_number(value: Any) -> bool:
    """Whether it is a number of Python or NumPy, which no switch and no array is."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_number(
    name: str, value: float, expected: str = "a finite number", fits: Callable[[float], bool] = math.isfinite
) -> float:
    """Return a number if it `fits`; raises InputError, which says what is `expected`, where it is another thing."""
    if not is_number(value) or not fits(value):
        raise InputError(f"{name} is {value!r}; expected {expected}")
    return float(value)


def check_positive(name: str, value: float) -> float:
    """Return a number if it is above 0 and finite; raises InputError where it is another thing."""
    return check_number(name, value, "a number above 0", lambda number: 0 < number < math.inf)


def check_least(name: str, value: float) -> float:
    """Return a number if it is at least 0 and finite; raises InputError where it is another thing."""
    return check_number(name, value, "a number of at least 0", lambda number: 0 <= number < math.inf)


def check_probability(name: str, value: float, kind: str = "probability") -> float:
    """Return a number, of dropout a probability, if it is in [0, 1); raises InputError where it is another thing."""
    return check_number(name, value, f"a {kind} in [0, 1)", lambda number: 0 <= number < 1)


def check_share(name: str, value: float) -> float:
    """Return a share if it is in (0, 1); raises InputError where it is another thing."""
    return check_number(name, value, "a share between 0 and 1", lambda number: 0 < number < 1)
