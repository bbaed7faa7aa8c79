"""The CUDA kernels by name: where their sources are, and every instance that the package launches.

Sources are ``kernels/cuda/*.cu`` with the headers they include put in place, so that a compiler needs no search path
and CuPy's cache on disk, whose key is the source, sees a change of any of them.
"""

from __future__ import annotations

import functools
import importlib.resources
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeAlias

import numpy as np

from gpu_lstm.errors import BackendError, InputError

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
OPTIONS = ("-std=c++17", "-fmad=false")
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
SCATTER_WARPS = 8
SEQUENCE_THREADS = 256
"""Threads of a block of the sequence kernels, as ``kernels/cuda/mma.cuh`` has it: few, so that each has registers for
weights."""
TENSOR = ("tf32", "float16", "bfloat16")
"""What tensor cores multiply in the sequence kernels: 16-bit numbers, and float32 rounded to TF32 where asked for."""
SEQUENCE_CELLS = ("Plain", "Family", "Normed")
"""What the cells of the sequence kernels do, as ``kernels/cuda/options.cuh`` has it: the plain LSTM, its options, or
those with layer normalisation."""
CLUSTER = 8
"""Blocks of a thread-block cluster: the most that every device with clusters takes."""
CLUSTERS_SINCE = 90
"""First architecture that has them."""
FORMS = ("block", "cluster", "grid", "joint")
"""Of the sequence kernels: `gpu_lstm.recurrence.cuda.onchip` says what they are."""
JOINT = range(90, 110)
"""Architectures that have the joint form. On 120, Blackwell's of desktops, a multiprocessor was seen to read 1.3 bytes
a cycle from others of its cluster: too few."""
RULES = ("sgd", "rmsprop", "adam")

_HEADERS = {"__half": "cuda_fp16.h", "__nv_bfloat16": "cuda_bf16.h"}
_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Kernel:
    """One instance of a kernel.

    Attributes
    ----------
    file : str
        In ``kernels/cuda``.
    name : str
    arguments : tuple of str
        Template arguments, in C++.
    cooperative : bool
        All blocks of a launch must run at the same time: they wait for each other.
    cluster : int
        Blocks of a cluster; they are compiled into the kernel unless it is cooperative, too.
    since : int
        First architecture that it compiles for, of those that are supported at all.
    """

    file: str
    name: str
    arguments: tuple[str, ...] = ()
    cooperative: bool = False
    cluster: int = 1
    since: int = 75

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

    Raises
    ------
    InputError
        The environment has another thing than a whole number.
    """
    text = os.environ.get(WATCHDOG, "0")
    if not text.isdecimal() or int(text) >= 2**31:
        raise InputError(f"{WATCHDOG} is {text!r}; expected a whole number below 2^31")
    return int(text)


def options() -> tuple[str, ...]:
    """For the compiler, with those that the environment asks for."""
    asked = [option for name, option in ((LINES, "-lineinfo"), (RELEASED, f"-D{RELEASED}")) if _asked_for(name)]
    return (*OPTIONS, *asked, *[f"-D{WATCHDOG}={looks}" for looks in [watchdog()] if looks])


def _asked_for(name: str) -> bool:
    """Whether that environment variable is set to another thing than 0."""
    return os.environ.get(name, "0") not in ("", "0")


def gates_forward(dtype: str, neighbours: int, keep: bool, masked: bool) -> Kernel:
    """The cell of one time step; `neighbours` hidden units a thread."""
    return Kernel("gates.cu", "gates_forward", (STORAGE[dtype], str(neighbours), _bool(keep), _bool(masked)))


def gates_backward(dtype: str, neighbours: int, masked: bool) -> Kernel:
    """Its derivatives."""
    return Kernel("gates.cu", "gates_backward", (STORAGE[dtype], str(neighbours), _bool(masked)))


def family_cells(direction: str, dtype: str, neighbours: int, normed: bool) -> Kernel:
    """The family's cell, "forward" or "backward", of one time step; `normed`: with layer normalisation."""
    return Kernel("family.cu", f"family_cells_{direction}", (STORAGE[dtype], str(neighbours), _bool(normed)))


def finish_h(dtype: str) -> Kernel:
    """What happens to a projected h."""
    return Kernel("family.cu", "finish_h", (STORAGE[dtype],))


def begin_dh(dtype: str) -> Kernel:
    """Its derivative."""
    return Kernel("family.cu", "begin_dh", (STORAGE[dtype],))


def sequence(direction: str, dtype: str, form: str, height: int, columns: int, cells: str = "Plain") -> Kernel:
    """All steps, "forward" or "backward", in a form of `gpu_lstm.recurrence.cuda.onchip`.

    A warp multiplies 16 `height` rows of weights by 8 `columns` sequences; `dtype` may be "tf32", too. `cells` is one
    of `SEQUENCE_CELLS`.
    """
    more = () if cells == "Plain" else (cells,)
    name, storage = f"sequence_{direction}", STORAGE.get(dtype, dtype)
    if form == "cluster":
        arguments = (storage, str(CLUSTER), str(height), str(columns), *more)
        return Kernel("sequence.cu", f"{name}_cluster", arguments, cluster=CLUSTER, since=CLUSTERS_SINCE)
    team = {"block": "Alone", "grid": "Grid", "joint": "JointGrid"}[form]
    arguments = (storage, team, str(height), str(columns), *more)
    if form == "joint":
        return Kernel("sequence.cu", name, arguments, cooperative=True, cluster=CLUSTER, since=CLUSTERS_SINCE)
    return Kernel("sequence.cu", name, arguments, cooperative=form == "grid", since=80)


def sequence_sizes(direction: str, dtype: str, form: str, cells: str = "Plain") -> list[tuple[int, int]]:
    """The pairs of `height` and `columns` that there are of `sequence`."""
    if cells != "Plain":  # one: the height that wastes the least where much of the grid shares the units
        return [] if form == "joint" else [(1 if (direction, form) == ("backward", "grid") else 2, 1)]
    # A block alone has one tile of 8 sequences; two would spill to local memory in float64.
    columns = (1,) if form == "block" or dtype == "float64" else (1, 2)
    if form == "joint":  # not forward: of h there is less than of sums
        sizes = [(1, 1), (1, 2), (2, 2)] if dtype in TENSOR else [(1, 1)]
        return sizes if direction == "backward" else []
    if form == "grid" and dtype not in TENSOR and direction == "forward":
        return [(2, 1)]  # the next would spill to local memory on sm_100
    if form == "grid" and direction == "backward":  # the largest only where a lane has registers for it
        return [size for size in product((1, 2), columns) if dtype in TENSOR or size != (2, 2)]
    return [(2, 1), (3, 1), (3, 2), (4, 1)] if form == "grid" else list(product((2,), columns))


def barriers(form: str) -> Kernel:
    """Many barriers of a team, to time them."""
    if form == "cluster":
        return Kernel("costs.cu", "barriers_cluster", (str(CLUSTER),), cluster=CLUSTER, since=CLUSTERS_SINCE)
    team = {"block": "Alone", "grid": "GridBarrier"}[form]
    return Kernel("costs.cu", "barriers", (team,), cooperative=form == "grid", since=80)


def handovers() -> Kernel:
    """Many numbers handed from block to block by global memory, to time them."""
    return Kernel("costs.cu", "handovers", cooperative=True, since=80)


def gathers() -> Kernel:
    """Many times what every block shows read by all, or a part of it, to time it."""
    return Kernel("costs.cu", "gathers", cooperative=True, since=80)


def handovers_in_cluster() -> Kernel:
    """The same by the shared memory of a cluster."""
    return Kernel("costs.cu", "handovers_in_cluster", (str(CLUSTER),), cluster=CLUSTER, since=CLUSTERS_SINCE)


def sums_in_cluster() -> Kernel:
    """Many sums sent from each block of a cluster to all, as the joint form does, to time them."""
    return Kernel("costs.cu", "sums_in_cluster", cooperative=True, cluster=CLUSTER, since=CLUSTERS_SINCE)


def reads_in_cluster() -> Kernel:
    """Many reads of another block's shared memory, one after the other, to time them."""
    return Kernel("costs.cu", "reads_in_cluster", (str(CLUSTER),), cluster=CLUSTER, since=CLUSTERS_SINCE)


def count_targets() -> Kernel:
    """How many targets count."""
    return Kernel("cross_entropy.cu", "count_targets")


def cross_entropy(dtype: str) -> Kernel:
    """Loss and gradient of each row."""
    return Kernel("cross_entropy.cu", "cross_entropy", (STORAGE[dtype],))


def mean_loss(dtype: str) -> Kernel:
    """Mean of the rows' losses."""
    return Kernel("cross_entropy.cu", "mean_loss", (STORAGE[ARITHMETIC[dtype]],))


def check_range() -> Kernel:
    """Smallest and largest number out of range."""
    return Kernel("embedding.cu", "check_range")


def take_rows(dtype: str) -> Kernel:
    """Rows of a table by number."""
    return Kernel("embedding.cu", "take_rows", (STORAGE[dtype],))


def scatter_add(dtype: str) -> Kernel:
    """Rows added to rows of a table by number."""
    return Kernel("embedding.cu", "scatter_add", (STORAGE[dtype], str(SCATTER_WARPS)))


def dropout(dtype: str, neighbours: int) -> Kernel:
    """Mask and scale."""
    return Kernel("dropout.cu", "dropout", (STORAGE[dtype], str(neighbours)))


def sum_of_squares(dtype: str) -> Kernel:
    """Of each chunk of the gradients."""
    return Kernel("optimizer.cu", "sum_of_squares", (STORAGE[dtype],))


def norm_of_sums(dtype: str) -> Kernel:
    """Root of the sum over all chunks."""
    return Kernel("optimizer.cu", "norm_of_sums", (STORAGE[ARITHMETIC[dtype]],))


def update(dtype: str, rule: str) -> Kernel:
    """An optimizer's step over all parameters; `dtype` is that of the gradients."""
    return Kernel("optimizer.cu", "update", (STORAGE[dtype], rule))


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

    Raises
    ------
    InputError
        The array has gaps, or is misaligned.
    """
    if not array.flags.c_contiguous:
        raise InputError(f"{name} is not C-contiguous; expected an array without gaps (xp.ascontiguousarray)")
    if not aligned(array.itemsize, array):
        raise InputError(f"{name} is misaligned; expected an array whose elements begin at multiples of their size")


def aligned(size: int, *arrays: Any) -> bool:
    """Whether accesses of that many bytes, 16 at most, may start at each array's first element."""
    return all(address(array) % min(size, 16) == 0 for array in arrays)


def every_kernel() -> Iterator[Kernel]:
    """Each instance that a backend may launch, once."""
    both = (False, True)
    yield from (count_targets(), check_range(), reads_in_cluster(), sums_in_cluster(), handovers())
    yield from (handovers_in_cluster(), gathers())
    yield from (barriers(form) for form in ("block", "cluster", "grid"))
    for dtype in STORAGE:
        for width in (1, neighbours(dtype)):
            yield from (gates_forward(dtype, width, keep, masked) for keep, masked in product(both, both))
            yield from (gates_backward(dtype, width, masked) for masked in both)
        for direction in ("forward", "backward"):
            yield from (family_cells(direction, dtype, width, False) for width in (1, neighbours(dtype)))
            yield family_cells(direction, dtype, 1, True)
        yield from (finish_h(dtype), begin_dh(dtype))
        yield from (cross_entropy(dtype), take_rows(dtype), scatter_add(dtype), sum_of_squares(dtype))
        yield from (dropout(dtype, width) for width in (1, 4))
        yield from (update(dtype, rule) for rule in RULES)
    for dtype, direction, form, cells in product((*STORAGE, "tf32"), ("forward", "backward"), FORMS, SEQUENCE_CELLS):
        for height, columns in sequence_sizes(direction, dtype, form, cells):
            yield sequence(direction, dtype, form, height, columns, cells)
    for dtype in ("float32", "float64"):
        yield from (mean_loss(dtype), norm_of_sums(dtype))


@functools.cache
def read_source(file: str) -> str:
    """Text of a file in ``kernels/cuda`` with each header it includes put in place, once.

    Raises
    ------
    BackendError
        The sources are not where the package was installed.
    """
    path = PurePosixPath("cuda", file)
    return expand(read_text(path), path)


def expand(text: str, path: PurePosixPath) -> str:
    """CUDA text at that place in ``kernels``, with ``#line`` directives so that messages name the right file."""
    seen: set[PurePosixPath] = set()

    def included(text: str, path: PurePosixPath) -> str:
        def header(match: re.Match[str]) -> str:
            name = _normal(path.parent / match[1])
            if name in seen:
                return ""
            seen.add(name)
            line = text.count("\n", 0, match.start()) + 2
            return f'{included(read_text(name), name)}#line {line} "{path}"'

        return f'#line 1 "{path}"\n' + _INCLUDE.sub(header, text)

    return included(text, path)


def read_text(path: PurePosixPath | str) -> str:
    """A file of ``kernels``.

    Raises
    ------
    BackendError
        The file is not where the package was installed.
    """
    try:
        text: str = _folder().joinpath(str(path)).read_text(encoding="utf-8")
    except OSError as error:
        raise BackendError(
            f"CUDA source {path} is missing: {error}; reinstall gpu_lstm (pip install --force-reinstall gpu-lstm)"
        ) from None
    return text


def _folder() -> Any:
    """``kernels``: a part of the installed package, or beside it in a checkout."""
    try:
        return importlib.resources.files("gpu_lstm.kernels")
    except ModuleNotFoundError:
        return Path(__file__).resolve().parents[2] / "kernels"


def _normal(path: PurePosixPath) -> PurePosixPath:
    """The path without ``..``."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return PurePosixPath(*parts)


def _bool(value: bool) -> str:
    return "true" if value else "false"
