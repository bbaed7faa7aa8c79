"""Blocks of memory from the system, for `gpu_lstm.native.pool`."""

from __future__ import annotations

import mmap

import numpy as np

from gpu_lstm.native.kernels import address

ALIGNMENT = 64
"""Bytes of a cache line and of the widest vector register."""
HUGE = 1 << 22
"""Bytes from which larger pages pay."""


def new_block(size: int) -> memoryview:
    """Return bytes straight from the system, from a cache line on; it gets them back as soon as nobody holds them."""
    if hasattr(mmap, "MAP_ANONYMOUS"):
        try:
            block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no memory for an array of {size} bytes: {error}") from None
        if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            block.madvise(mmap.MADV_HUGEPAGE)
        return memoryview(block)
    whole = np.empty(size + ALIGNMENT, np.uint8)
    start = -address(whole) % ALIGNMENT
    return whole[start : start + size].data
