"""The compiled CPU library: found, loaded and described in one place.

It is built from ``kernels/cpu`` when the package is installed, and it is optional: without a compiler, or in a bare
checkout, the tiers that are plain NumPy run, and `missing` says why.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpu_lstm.backend.pool import POOL
from gpu_lstm.errors import InputError

THREADS_VARIABLES = ("GPU_LSTM_NUM_THREADS", "OMP_NUM_THREADS")
OFF_VARIABLE = "GPU_LSTM_COMPILED"
SERIAL_WORK = 1 << 18
"""Multiply-adds below which a second thread costs more than it saves."""
FINGERPRINT_BYTES = 65536
"""Of a block that has a fingerprint."""
LONG = np.dtype("l")
"""C's long, in which all whole numbers are passed."""
SETS = ("baseline", "avx2", "avx512")
"""Instruction sets in the library, by number."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library, or None where there is none."""
    return _load()[0]


def missing() -> str:
    """Why there is no compiled library; empty where there is one."""
    return _load()[1]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get(OFF_VARIABLE) == "0":
        return None, f"turned off by {OFF_VARIABLE}=0"
    folder = Path(__file__).resolve().parent.parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_cpu{suffix}"
        if path.exists():
            try:
                loaded = ctypes.CDLL(str(path))
                loaded.gpu_lstm_best_set.restype = ctypes.c_int
                return loaded, ""
            except (OSError, AttributeError) as error:
                return None, f"the compiled library can't be loaded: {error}"
    return None, "not compiled: a bare checkout, or no C++17 compiler when it was installed (pip install . builds it)"


def instruction_set() -> int:
    """Number of the best instruction set of this processor, or what GPU_LSTM_COMPILED names (for tests)."""
    loaded = library()
    best = loaded.gpu_lstm_best_set() if loaded else 0
    named = os.environ.get(OFF_VARIABLE)
    if named in SETS:
        if SETS.index(named) > best:
            raise InputError(f"environment variable {OFF_VARIABLE} is {named}; this processor has up to {SETS[best]}")
        return SETS.index(named)
    return int(best)


def describe() -> str:
    """Instruction set and threads, for people."""
    return f"{SETS[instruction_set()]}, {threads()} threads"


def threads() -> int:
    """Threads to use: GPU_LSTM_NUM_THREADS, else OMP_NUM_THREADS, else the processors that this process may use."""
    for variable in THREADS_VARIABLES:
        text = os.environ.get(variable)
        if text:
            if not text.isdecimal() or int(text) < 1:
                raise InputError(f"environment variable {variable} is {text!r}; expected a whole number of at least 1")
            return min(int(text), 256)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def call(name: str, dtype: np.dtype, *arguments: int | np.ndarray | None) -> None:
    """Call an entry of the library: whole numbers are passed as C longs, arrays as pointers; the GIL is released.

    Parameters
    ----------
    name : str
        Without the prefix ``gpu_lstm_`` and the suffix of the dtype.
    dtype : numpy.dtype
        float32 or float64.
    *arguments
        After the instruction set, which is passed first.
    """
    loaded = library()
    assert loaded is not None, "only called where the library is there"
    function = loaded[f"gpu_lstm_{name}_{'f32' if dtype.itemsize == 4 else 'f64'}"]
    function.restype = None
    function(
        ctypes.c_long(instruction_set()),
        *(
            ctypes.c_void_p(None if argument is None else argument.ctypes.data)
            if argument is None or isinstance(argument, np.ndarray)
            else ctypes.c_long(argument)
            for argument in arguments
        ),
    )


def multiply(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """``a @ b [+ bias]`` of matrices of one dtype with any strides, on as many threads as pay."""
    (rows, depth), columns = a.shape, b.shape[1]
    c = POOL.empty((rows, columns), a.dtype)
    item = a.itemsize
    strides = [stride // item for array in (a, b) for stride in array.strides]
    used = threads_for(rows * columns * depth, rows // 4)
    call("multiply", a.dtype, rows, columns, depth, a, *strides[:2], b, *strides[2:], c, bias, used)
    return c


def weight_gradients(dy: np.ndarray, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """``dy.T @ x`` for one or two x, and the sum of dy's rows; contiguous matrices of one dtype."""
    rows, outputs = dy.shape
    dw = [POOL.empty((outputs, x.shape[1]), dy.dtype) for x in inputs]
    db = np.empty(outputs, dy.dtype)
    columns = np.array([x.shape[1] for x in inputs])
    used = threads_for(rows * outputs * int(columns.sum()), outputs // 4)
    x, columns = pointers(inputs), longs(columns)
    call("weight_gradients", dy.dtype, rows, outputs, dy, len(inputs), x, columns, pointers(dw), db, used)
    return dw, db


def fingerprints(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """64 bits for each block of the arrays' bytes, see ``kernels/cpu/training.h``: others where one has changed."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    found = np.empty(sum(fingerprint_blocks(array) for array in arrays), np.uint64)
    sizes = longs([array.nbytes for array in arrays])
    threads = threads_for(int(sizes.sum()) // 8, len(found))
    call("fingerprints", np.dtype(np.float32), len(arrays), sizes, pointers(arrays), found, threads)
    return found


def fingerprint_blocks(array: np.ndarray) -> int:
    """How many of them an array has."""
    return -(-array.nbytes // FINGERPRINT_BYTES)


def threads_for(work: int, most: int) -> int:
    """Threads that pay for so many multiply-adds, at most `most`."""
    return max(1, min(threads(), most, work // SERIAL_WORK))


def pointers(arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    """Addresses of arrays, null for None, as an array of C pointers."""
    return np.array([0 if array is None else array.ctypes.data for array in arrays], dtype=np.uintp)


def longs(numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """An array of C longs."""
    return np.ascontiguousarray(numbers, dtype=LONG)
