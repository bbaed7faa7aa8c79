"""Calls into the compiled CPU library: arrays are checked, lent as pointers, and what went wrong is said."""

from __future__ import annotations

import ctypes
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.native import refused
from gpu_lstm.native.arguments import Argument, Limits, Shape, int64s
from gpu_lstm.native.library import SETS, SUFFIXES, function_of, instruction_set, library, missing, vnni_sets

__all__ = ["SETS", "SUFFIXES", "function_of", "instruction_set", "library", "missing"]

THREADS_VARIABLES = ("GPU_LSTM_NUM_THREADS", "OMP_NUM_THREADS")
SERIAL_WORK = 1 << 18
"""Multiply-adds below which a second thread costs more than it saves."""
NO_MEMORY = 1
"""The status of an entry that found none, as ``kernels/cpu/lstm_cpu.cpp`` has it."""
Span = tuple[int, int, Argument]
"""From where to where an array reaches, and which one it is."""
_START = operator.itemgetter(0)


def words() -> str:
    """Return the instruction set and the number of threads, for people."""
    return f"{SETS[instruction_set()]}, {threads()} threads"


def threads() -> int:
    """Return the threads to use: GPU_LSTM_NUM_THREADS, else OMP_NUM_THREADS, else this process's processors.

    Raises InputError where an environment variable is no whole number of at least 1.
    """
    for variable in THREADS_VARIABLES:
        text = os.environ.get(variable)
        if text:
            if not text.isdecimal() or int(text) < 1:
                raise InputError(f"environment variable {variable} is {text!r}; expected a whole number of at least 1")
            return min(int(text), 256)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def vnni() -> str:
    """Return how the names of entries end that multiply by 8-bit weights: ``_vnni`` where the processor has VNNI.

    GPU_LSTM_VNNI=0 says that it has not: the same results to the last bit, for tests and measurements.
    """
    return "_vnni" if vnni_sets() & instruction_set() and os.environ.get("GPU_LSTM_VNNI") != "0" else ""


def call(name: str, dtype: np.dtype, *arguments: Any) -> None:
    """Call an entry of the library, the one way into it besides `watch`; the GIL is released.

    `name` is without the prefix ``gpu_lstm_`` and the suffix of `dtype`, which all arrays have that have no other one;
    the arguments are whole numbers, arrays, lists of arrays and None, as its row of `gpu_lstm.native.entries` has them.

    Nothing was written where it raises InputError, for an array can't be taken, see `Argument.fit`, or two that are
    written share memory; or MemoryError.
    """
    run(name, *passed_of(name, dtype, arguments))


def passed_of(name: str, dtype: np.dtype, arguments: Sequence[Any]) -> tuple[Any, tuple[Any, ...], list[np.ndarray]]:
    """Check a call; return the function, what it takes, and the arrays that must live until it is over."""
    function, entry, dtype = function_of(name, dtype, SETS[instruction_set()])
    taken: list[np.ndarray] = []
    spans: list[Span] = []

    def lend(argument: Argument, array: np.ndarray) -> int:
        taken.append(array)
        place, low, size = address(array), 0, array.nbytes
        if size and not array.flags.c_contiguous:
            low, size = _reach(array)
        if size:
            spans.append((place + low, place + size, argument))
        return place

    def take(argument: Argument, array: Any, shape: Shape, limits: Limits, n: int | None = None) -> int:
        array = argument.fit(array, shape, dtype, limits, n)
        return 0 if array is None else lend(argument, array)

    def take_apart(argument: Argument, array: Any, shape: Shape, limits: Limits, n: int | None = None) -> Any:
        array = argument.fit(array, shape, dtype, limits, n)
        return (0,) * (1 + len(argument.gaps)) if array is None else (lend(argument, array), *argument.apart(array))

    def take_all(argument: Argument, arrays: Sequence[Any], shapes: Sequence[Shape], limits: Limits) -> list[Any]:
        if len(arrays) != len(shapes):
            raise InputError(f"{argument.name} has {len(arrays)} arrays; expected {len(shapes)}")
        take_one: Callable[..., Any] = take_apart if argument.gaps else take
        numbers = [None] if len(arrays) == 1 else range(len(arrays))
        found = [
            take_one(argument, x, shapes[k], limits, n) for k, (x, n) in enumerate(zip(arrays, numbers, strict=True))
        ]
        if argument.gaps:
            return [(ctypes.c_void_p * len(found))(*[one[0] for one in found]), int64s([one[1] for one in found])]
        return [(ctypes.c_void_p * len(found))(*found)]

    passed = entry.passed(take, take_apart, take_all, *arguments)
    if shared := _shared(spans):
        first, second = shared
        if first.written and second.written:
            told = f"{first.name} shares memory with {second.name}"
            raise InputError(f"{told}; expected arrays of their own, for both are written")
        return passed_of(name, dtype, list(map(Argument.copied, entry.arguments, arguments)))
    return function, passed, taken


def run(name: str, function: Callable[..., int], passed: Sequence[Any], live: Sequence[np.ndarray] = ()) -> None:
    """Run an entry; what its pointers point into must `live` until it is over."""
    status = function(*passed)
    if status == NO_MEMORY:
        raise MemoryError(f"the compiled library's {name} needs more memory than there is")
    if status:
        raise BackendError(f"the compiled library's {name} refused its arguments")


def _reach(array: np.ndarray) -> tuple[int, int]:
    """From where to where an array with gaps reaches, in bytes from its first element."""
    reach = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    return sum(min(step, 0) for step in reach), sum(max(step, 0) for step in reach) + array.itemsize


def address(array: Any) -> int:
    """Where an array's first element lies."""
    if array.flags.carray and array.size:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # a third of the time of array.ctypes
    return int(array.ctypes.data)


def _shared(spans: list[Span]) -> tuple[Argument, Argument] | None:
    """Two that reach the same memory, one of which is written, if there are."""
    spans.sort(key=_START)
    end = 0
    for start, stop, _ in spans:
        if start < end:
            return refused.shared(spans)
        end = stop
    return None  # as nearly always


def axes(name: str, array: np.ndarray, count: int) -> tuple[int, ...]:
    """Return the sizes of an array; raises InputError where it has not so many axes."""
    shape: tuple[int, ...] = array.shape
    if len(shape) != count:
        raise InputError(f"{name} has shape {shape}; expected {count} axes")
    return shape


def threads_for(work: int, most: int) -> int:
    """Return the threads that pay for so many multiply-adds, at most `most`."""
    most = min(most, work // SERIAL_WORK)
    return min(threads(), most) if most > 1 else 1
