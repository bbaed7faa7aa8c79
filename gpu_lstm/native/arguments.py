"""An argument of the compiled library: an array that fits is passed as it is, another copied or refused by name."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.native import refused

PLAIN = (np.ndarray, np.memmap)
"""Kinds of arrays that have no meaning of their own, as a mask or units are."""
BLOCK, PAGE = 4096, 65536
"""Elements of a block in ``kernels/cpu/training.h``, and bytes of one that has a fingerprint."""
OTHERS: dict[str, np.dtype] = {
    "int64": np.dtype(np.int64),
    "double": np.dtype(np.float64),
    "byte": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "word": np.dtype(np.uint64),
}
"""Dtypes besides the call's."""

CONTIGUOUS, _ALIGNED = 0x1, 0x100
"""Bits of ``ndarray.flags.num``."""
WRITABLE = CONTIGUOUS | _ALIGNED | 0x400
"""Those of an array that can be written."""
Shape = tuple[int, ...] | int
"""Of an array; or how many elements one of any shape has."""
Limits = tuple[int, int] | None
"""From where to where an array's numbers may go."""


@dataclass(frozen=True)
class Argument:
    """One of a row."""

    # as the row has them, empty where it has none
    name: str
    dtype: str
    many: str  # of a list, how many it has
    shape: str
    low: str
    high: str
    written: bool
    optional: bool
    gaps: tuple[str, ...]  # names of C++'s arguments that tell how far rows, or rows and columns, are apart

    @functools.cached_property
    def flags(self) -> int:
        """The bits of ``flags.num`` that an array must have."""
        return WRITABLE if self.written else _ALIGNED if self.gaps else _ALIGNED | CONTIGUOUS

    @functools.cached_property
    def own_dtype(self) -> np.dtype | None:
        """The dtype, where that is another than the call's."""
        return OTHERS.get(self.dtype)

    def fit(self, array: Any, shape: Shape, dtype: np.dtype, limits: Limits, n: int | None = None) -> Any:
        """Return the array as C++ takes it: itself, or a copy; the n-th of a list.

        Raises InputError where the array has another shape, is no plain one, has a dtype that another can't stand for,
        or a number outside of `limits`; or it is to be written and has another dtype, gaps, an odd address, or is
        read-only.
        """
        if array is None and self.optional:
            return None
        if self.own_dtype is not None:
            dtype = self.own_dtype
        if type(array) not in PLAIN:
            kind = f"{type(array).__module__}.{type(array).__name__}"
            raise InputError(f"{self.label(n)} is a {kind}; expected a NumPy array")
        if array.shape != shape and (isinstance(shape, tuple) or array.size != shape):
            raise InputError(f"{self.label(n)} has shape {array.shape}; expected {refused.expected(self.shape, shape)}")
        if array.dtype != dtype or self.flags & ~array.flags.num or (self.gaps and not self.apart(array)):
            if array.dtype != dtype and (self.written or not np.can_cast(array.dtype, dtype, "same_kind")):
                raise InputError(f"{self.label(n)} has dtype {array.dtype}; expected {dtype}")
            if self.written:
                raise InputError(f"{self.label(n)} {refused.unfit(array)}")
            array = np.array(array, dtype, order="C")
        if limits and array.size and not limits[0] <= array.min() <= array.max() <= limits[1]:
            numbers, expected = f"{array.min()}..{array.max()}", f"{self.low}..{self.high}={limits[1]}"
            raise InputError(f"{self.label(n)} has values {numbers}; expected {expected}")
        return array

    def label(self, n: int | None) -> str:
        """Return its name, or that of an array of its list."""
        return self.name if n is None else f"{self.name}[{n}]"

    def copied(self, value: Any) -> Any:
        """Return the value, with arrays that are read in memory of their own."""
        if self.written or not self.shape:
            return value
        if self.many:
            return [None if array is None else array.copy() for array in value]
        return None if value is None else value.copy()

    def apart(self, array: np.ndarray) -> tuple[int, ...]:
        """Return elements from row to row, and column to column if asked for; () where no whole numbers say it."""
        item, strides = array.itemsize, array.strides
        if len(self.gaps) == 2:
            row, column = strides
            return () if row % item or column % item else (row // item, column // item)
        _, batch, width = array.shape
        row = strides[1] // item
        return (row,) if (strides == (batch * row * item, row * item, item) and row >= width) or not array.size else ()


def int64s(numbers: Sequence[int]) -> Any:
    """Return whole numbers as C++ takes a list of them."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def blocks(sizes: Sequence[int]) -> int:
    """Return the number of blocks of arrays with so many elements."""
    return sum(-(-size // BLOCK) for size in sizes)


def packed(rows: int, depth: int) -> int:
    """Return the elements of a matrix whose rows are packed for products with it, on any instruction set."""
    return -(-rows // 64) * 64 * depth


def pages(sizes: Sequence[int]) -> int:
    """Return the number of fingerprints of arrays with so many bytes."""
    return sum(-(-size // PAGE) for size in sizes)
