"""Whether arrays were written to, by compiled fingerprints of their bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

from gpu_lstm.native import compiled
from gpu_lstm.native.arguments import int64s, pages
from gpu_lstm.native.library import SETS


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
