"""A CUDA kernel, how it is compiled, and what is passed to it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.native.sources import read_source

Struct: TypeAlias = tuple[Any, ...]
"""Arrays, NumPy scalars, None for a null pointer, and structs: a struct of C++ that has them in this order."""


class Several(tuple[Struct, ...]):
    """Structs of one kind, and null ones behind them until they are `count`.

    Packing takes Python longer than a launch, so the null ones are packed once.
    """

    given: int
    kind: Any

    def __new__(cls, structs: Sequence[Struct], count: int) -> Several:
        """Of at least one."""
        kind = _type(structs[0])
        several = super().__new__(cls, (*structs, *[_null(kind)] * (count - len(structs))))
        several.given, several.kind = len(structs), kind
        return several


class Launch(Protocol):
    """A compiled kernel."""

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_bytes: int = 0
    ) -> None:
        """Launch it with arguments that are arrays, NumPy scalars, None for a null pointer, or a `Struct`."""


STORAGE = {"float32": "float", "float64": "double", "float16": "__half", "bfloat16": "__nv_bfloat16"}
"""What CUDA C++ calls each dtype that a kernel takes."""
ARITHMETIC = {"float32": "float32", "float64": "float64", "float16": "float32", "bfloat16": "float32"}
"""The dtype that each is computed in; states and sums are kept in it."""
FLAGS = ("-std=c++17", "-fmad=false")
"""Compiler options besides those that CuPy adds. Products and sums are fused where the sources say so and nowhere else:
left to the compiler, two instances of a kernel would not agree to the last bit."""
WATCHDOG = "GPU_LSTM_WATCHDOG"
"""Environment variable, for debugging: after so many looks in vain, a waiting kernel gives up and the host says so."""
RELEASED = "GPU_LSTM_RELEASED"
"""Environment variable, to time it: with 1 the joint form's barrier of a cluster releases in each step, as
``kernels/cuda/joint.cuh`` has it."""
LINES = "GPU_LSTM_LINEINFO"
"""Environment variable, for NVIDIA's profilers and sanitizers: 1 puts the lines of the sources into kernels, which are
three times as large then."""
BLOCK = 256
"""Threads of a block, where nothing asks for another number."""
_HEADERS = {"__half": "cuda_fp16.h", "__nv_bfloat16": "cuda_bf16.h"}


@dataclass(frozen=True)
class Kernel:
    """One instance of a kernel."""

    file: str  # in ``kernels/cuda``
    name: str
    arguments: tuple[str, ...] = ()  # template arguments, in C++
    cooperative: bool = False  # all blocks of a launch must run at the same time: they wait for each other
    cluster: int = 1  # blocks of a cluster; they are compiled into the kernel unless it is cooperative, too
    since: int = 75  # first architecture that it compiles for, of those that are supported at all

    @property
    def expression(self) -> str:
        """As C++ names it: ``gates_forward<float, 4, true, false>``."""
        return f"{self.name}<{', '.join(self.arguments)}>" if self.arguments else self.name

    @property
    def source(self) -> str:
        """All that the compiler needs."""
        headers = sorted({_HEADERS[argument] for argument in self.arguments if argument in _HEADERS})
        return "".join(f"#include <{header}>\n" for header in headers) + read_source(self.file)


def watchdog() -> int:
    """Looks after which a waiting kernel gives up; 0: never.

    Raises InputError where the environment has another thing than a whole number.
    """
    text = os.environ.get(WATCHDOG, "0")
    if not text.isdecimal() or int(text) >= 2**31:
        raise InputError(f"{WATCHDOG} is {text!r}; expected a whole number below 2^31")
    return int(text)


def flags() -> tuple[str, ...]:
    """For the compiler, with those that the environment asks for."""
    switches = {LINES: "-lineinfo", RELEASED: f"-D{RELEASED}"}
    asked = [option for name, option in switches.items() if os.environ.get(name, "0") not in ("", "0")]
    return (*FLAGS, *asked, *[f"-D{WATCHDOG}={looks}" for looks in [watchdog()] if looks])


dtype_name: Callable[[Any], str] = functools.cache(str)
"""What a NumPy dtype is called: NumPy itself needs microseconds to say it, at every launch."""


def neighbours(dtype: str) -> int:
    """Elements of that dtype in 16 bytes."""
    return 16 // {"float32": 4, "float64": 8}.get(dtype, 2)


def passed(argument: Any) -> np.ndarray:
    """An argument as a kernel takes it by value, with the gaps that C++ leaves in a struct; arrays are addresses."""
    return np.array(_value(argument), dtype=_layout(_type(argument)))


def _value(member: Any) -> Any:
    if isinstance(member, Several):
        return (*map(_value, member[: member.given]), *[_zero(member.kind)] * (len(member) - member.given))
    if isinstance(member, tuple):
        return tuple(map(_value, member))
    if isinstance(member, np.generic):
        return member
    return 0 if member is None else address(member)


def _type(member: Any) -> Any:
    if isinstance(member, Several):
        return (member.kind,) * len(member)
    if isinstance(member, tuple):
        return tuple(map(_type, member))
    return type(member) if isinstance(member, np.generic) else np.uint64


@functools.cache
def _null(kind: Any) -> Any:
    """Null pointers and zeros."""
    if isinstance(kind, tuple):
        return tuple(map(_null, kind))
    return None if kind is np.uint64 else kind(0)


@functools.cache
def _zero(kind: Any) -> Any:
    """The value of `_null`."""
    return _value(_null(kind))


@functools.cache  # making a dtype takes longer than a launch
def _layout(kind: Any) -> np.dtype:
    members = [(str(n), _layout(member)) for n, member in enumerate(kind)] if isinstance(kind, tuple) else kind
    layout: np.dtype = np.dtype(members, align=True)
    return layout


def address(array: Any) -> int:
    """Where an array's first element lies, on a GPU or on the host."""
    if isinstance(array, np.ndarray):
        return int(array.__array_interface__["data"][0])
    return int(array.data.ptr)


def require_whole(name: str, array: Any) -> None:
    """Refuse an array that a kernel would read wrongly: one with gaps or, as no array of a device is, misaligned.

    Raises InputError where the array has gaps, or is misaligned.
    """
    if not array.flags.c_contiguous:
        raise InputError(f"{name} is not C-contiguous; expected an array without gaps (xp.ascontiguousarray)")
    if not aligned(array.itemsize, array):
        raise InputError(f"{name} is misaligned; expected an array whose elements begin at multiples of their size")


def aligned(size: int, *arrays: Any) -> bool:
    """Whether accesses of that many bytes, 16 at most, may start at each array's first element."""
    return all(address(array) % min(size, 16) == 0 for array in arrays)
