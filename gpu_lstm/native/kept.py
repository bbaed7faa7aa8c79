"""What compiled code makes of a weight for inference, kept from call to call while the weight stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.native import compiled
from gpu_lstm.native.arguments import packed
from gpu_lstm.native.fingerprints import watch
from gpu_lstm.native.pool import POOL

Make = Callable[[Any], Any]
"""Makes something of a weight."""
Made = Callable[[Make], Any]
"""Gives what a `Make` has made of the weight that it stands for: anew, or still."""


class Kept:
    """What was made of a weight last, until the weight is another array or was written to. Copies begin empty."""

    def __init__(self) -> None:
        self._held: tuple[Any, ...] = (None, None, None, None)

    def of(self, weight: np.ndarray, make: Make) -> Any:
        """Return what `make` gives for the weight, or gave for it when it had the same bytes."""
        array, kind, changed, made = self._held
        if array is not weight or kind is not make or (changed is not None and changed() is not None):
            changed = None if unwritable(weight) else watch([weight])  # before `make`, so that no change is missed
            made = make(weight)
            self._held = weight, make, changed, made
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, ()


def frozen(array: Any) -> np.ndarray:
    """Return a copy of an array that nobody can write to.

    Raises InputError where the array is none of NumPy's.
    """
    if not isinstance(array, np.ndarray):
        kind = f"{type(array).__module__}.{type(array).__name__}"
        raise InputError(f"the parameters are a {kind} each; expected NumPy arrays, for only those can be frozen")
    return np.ndarray(array.shape, array.dtype, array.tobytes())


def unwritable(array: np.ndarray) -> bool:
    """Return whether nobody can write to an array, for its memory is that of bytes."""
    return isinstance(array.base, bytes)


def for_recurrence(weight_hh: np.ndarray) -> np.ndarray:
    """Pack weight_hh (4H, H) as the entry ``forward`` takes it."""
    return _packed(weight_hh, gates=True)


def for_product(weight: np.ndarray) -> np.ndarray:
    """Pack a weight (N, K) as the entry ``multiply`` takes its transpose."""
    return _packed(weight, gates=False)


def _packed(weight: np.ndarray, gates: bool) -> np.ndarray:
    panels: np.ndarray = POOL.empty((packed(*weight.shape),), weight.dtype)
    compiled.call("pack", weight.dtype, int(gates), *weight.shape, weight, panels)
    return panels
