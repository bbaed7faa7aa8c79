"""What compiled code makes of a weight for inference, kept from call to call while the weight stays as it is.

Whether arrays were written to, fingerprints of their bytes tell.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.native import compiled
from gpu_lstm.native.arguments import int64s, packed, pages
from gpu_lstm.native.library import SETS
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
            # Before `make`, so that no change is missed; what lies in bytes, as `frozen` makes it, can't be written to.
            changed = None if isinstance(weight.base, bytes) else watch([weight])
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


def watch(arrays: Sequence[np.ndarray]) -> Callable[[], int | None]:
    """Return what `gpu_lstm.ops.Arrays.watch` does, by 64 bits for each page of bytes (``kernels/cpu/training.h``).

    Its pointers, of bytes that it laid out itself, are made once for any number of calls: every training step pays for
    this.
    """
    parts = [in_bytes(array) for array in arrays]
    copies = [n for n, array in enumerate(arrays) if not array.flags.c_contiguous]
    sizes = [part.size for part in parts]
    found = np.empty(pages(sizes), np.uint64)
    threads = compiled.threads_for(sum(sizes) // 8, len(found))
    places = (ctypes.c_void_p * len(parts))(*map(compiled.address, parts))
    function, _, _ = compiled.function_of("fingerprints", np.dtype(np.float32), SETS[compiled.instruction_set()])
    passed = len(parts), int64s(sizes), places, compiled.address(found), threads
    compiled.run("fingerprints", function, passed)
    before = found.tobytes()

    def changed() -> int | None:
        for n in copies:
            parts[n][...] = in_bytes(arrays[n])
        compiled.run("fingerprints", function, passed)
        if found.tobytes() == before:
            return None
        ends = np.cumsum([pages([size]) for size in sizes])
        return int(np.searchsorted(ends, np.flatnonzero(found != np.frombuffer(before, found.dtype))[0], side="right"))

    return changed


def in_bytes(array: np.ndarray) -> np.ndarray:
    """Return all bytes of an array in its order, without a copy where they lie so."""
    return np.ascontiguousarray(array).view(np.uint8)
