"""Memory of large NumPy arrays, kept for the next ones.

The system hands out memory as pages that it clears at first touch, which takes about as long as the recurrence's own
pass over them; steps of equal size, as in training, need not pay for that more than once.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np

from gpu_lstm.native.blocks import ALIGNMENT as ALIGNMENT
from gpu_lstm.native.blocks import new_block

SMALLEST = 1 << 16
"""Bytes from which an array's memory is kept; NumPy does well with smaller ones."""
LARGEST_IDLE = 1 << 28
"""Bytes that are kept at most while no array uses them."""


class Pool:
    """Blocks of memory that are free, because every array that lay in them is gone."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []  # the one freed last at the end
        self._returned: deque[memoryview] = deque()
        self._lent: dict[int, tuple[Any, memoryview]] = {}
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array whose elements are not set, like ``numpy.empty``; a large one starts on a cache line."""
        dtype = np.dtype(dtype)
        count = math.prod(shape)
        if count * dtype.itemsize < SMALLEST:
            return np.empty(shape, dtype)
        block = self._take(count * dtype.itemsize)
        # NumPy arrays and views keep their owner alive and nothing else does, so its end is that of the last of them.
        owner: Any = (ctypes.c_char * block.nbytes).from_buffer(block)
        end = weakref.ref(owner, self._give_back)
        self._lent[id(end)] = end, block
        return np.ndarray(shape, dtype, owner)

    def idle(self) -> int:
        """Return the bytes that are kept while no array uses them."""
        with self._lock:
            self._collect(LARGEST_IDLE)
            return sum(block.nbytes for block in self._free)

    def clear(self) -> None:
        """Give all idle memory back to the system."""
        with self._lock:
            self._collect(0)

    def _take(self, size: int) -> memoryview:
        """The smallest free block of at least `size` bytes, if not far too large, or a new one in place of others."""
        with self._lock:
            self._collect(LARGEST_IDLE)
            sizes = [block.nbytes for block in self._free]
            if fits := [n for n in sizes if size <= n <= 4 * size]:
                return self._free.pop(sizes.index(min(fits)))
            self._collect(max(0, sum(sizes) - size))
        return new_block(size)

    def _give_back(self, end: Any) -> None:
        # Runs wherever the last array ends, which can be inside the lock of this very thread: so it never waits.
        self._returned.append(self._lent.pop(id(end))[1])
        if self._lock.acquire(blocking=False):
            try:
                self._collect(LARGEST_IDLE)
            finally:
                self._lock.release()

    def _collect(self, keep: int) -> None:
        """Take in what came back; drop the blocks that were freed first until at most `keep` bytes are left."""
        while self._returned:
            self._free.append(self._returned.popleft())
        while sum(block.nbytes for block in self._free) > keep:
            self._free.pop(0)


POOL = Pool()
"""The pool of this process."""
