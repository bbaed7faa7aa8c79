"""Launch kernels of a built library on NumPy arrays, and say where mistakes are."""

from __future__ import annotations

import bisect
import ctypes
import re
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["EmulationError", "Module"]

INCLUDE = Path(__file__).parent / "include"
GUARD = 64 * 1024  # bytes between arrays, so that what lies past the end of one is no part of another
CANARY = 0xC7
CANARY_BYTES = 1024  # of the guard, looked at after a launch
STEP_LIMIT = 200_000_000


_one_launch = threading.Lock()  # a runtime keeps the state of one, and handles the signals of the process


class EmulationError(RuntimeError):
    """A mistake of a kernel, or of the one who launches it.

    `kernel` names the kernel and `kind` the kind of mistake; the message has both, with file, line, block and thread.
    """

    def __init__(self, kernel: str, kind: str, message: str) -> None:
        super().__init__(": ".join(part for part in (kernel, kind, message) if part))
        self.kernel = kernel
        self.kind = kind


class _Argument(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("size", ctypes.c_uint32), ("kind", ctypes.c_char)]


class _Region(ctypes.Structure):
    _fields_ = [
        ("begin", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("argument", ctypes.c_int32),
    ]


class _LaunchConfig(ctypes.Structure):
    """runtime/launch_config.h"""

    _fields_ = [
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("cluster", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("cooperative", ctypes.c_uint32),
        ("resident_clusters", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("step_limit", ctypes.c_uint64),
        ("argument_count", ctypes.c_uint32),
        ("region_count", ctypes.c_uint32),
        ("arguments", ctypes.POINTER(_Argument)),
        ("regions", ctypes.POINTER(_Region)),
        ("guard_count", ctypes.c_uint32),
        ("guards", ctypes.POINTER(ctypes.c_uint32)),
        ("kind", ctypes.c_void_p),
        ("message", ctypes.c_void_p),
        ("message_bytes", ctypes.c_uint32),
    ]


class Module:
    """The kernels of one CUDA text, built for one mode."""

    def __init__(self, library: Path, kernels: Sequence[str], guards: Sequence[int]) -> None:
        self.kernels = tuple(kernels)
        self._guards = guards
        self._path = library
        self._library = ctypes.CDLL(str(library))

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        cooperative: bool = False,
        cluster: Sequence[int] = (1, 1, 1),
        seed: int = 0,
        resident: int | None = None,
        in_place: Sequence[np.ndarray] = (),
        step_limit: int = STEP_LIMIT,
    ) -> None:
        """Run a kernel to its end.

        Parameters
        ----------
        name
            As in the text, or as in `names` of `build`.
        grid, block, cluster
            One to three sizes, as in CUDA.
        args
            Arrays (C-contiguous), NumPy scalars, Python ints (64 bits) and floats (double), None for a null pointer:
            as for CuPy's RawKernel. Sizes and kinds are compared with the kernel's parameters.
        shared_mem
            Bytes of dynamic shared memory.
        cooperative
            All blocks run at the same time; without it, `resident` clusters of blocks do, by default two.
        seed
            Of the order in which threads run. One seed, one order.
        in_place
            Arrays that the kernel reaches by addresses it loads from memory. Arrays in `args` are copied next to
            guards and back; these are not.
        step_limit
            So many basic blocks without anything that a waiting thread could wait for are a hang.

        Raises
        ------
        EmulationError
            A mistake was found. What the kernel wrote until then stays in the arrays.
        """
        if name not in self.kernels:
            raise EmulationError(name, "launch", f"no such kernel; there are {', '.join(self.kernels) or 'none'}")
        if resident is not None and resident < 1:
            raise EmulationError(name, "launch", f"resident is {resident}; expected at least 1")
        memory = _Memory(name, args, in_place)
        kind, message = ctypes.create_string_buffer(64), ctypes.create_string_buffer(4000)
        config = _LaunchConfig(
            grid=_three(name, "grid", grid),
            block=_three(name, "block", block),
            cluster=_three(name, "cluster", cluster),
            shared_bytes=shared_mem,
            cooperative=cooperative,
            resident_clusters=2 if resident is None else resident,
            seed=seed,
            step_limit=step_limit,
            argument_count=len(memory.arguments),
            region_count=len(memory.regions),
            arguments=(_Argument * len(memory.arguments))(*memory.arguments),
            regions=(_Region * len(memory.regions))(*memory.regions),
            guard_count=len(self._guards),
            guards=(ctypes.c_uint32 * len(self._guards))(*self._guards),
            kind=ctypes.addressof(kind),
            message=ctypes.addressof(message),
            message_bytes=len(message),
        )
        entry = self._library[f"emulator_kernel_{self.kernels.index(name)}"]
        entry.restype = ctypes.c_bool
        with _one_launch:
            passed = entry(ctypes.byref(config))
        overwritten = memory.copy_back()
        if not passed:
            text = message.value.decode(errors="replace")
            raise EmulationError(name, kind.value.decode(), self._explain(text, memory))
        if overrun := memory.overrun():
            raise EmulationError(name, "out of bounds", overrun)
        if overwritten is not None:
            raise EmulationError(name, "read-only", f"something wrote to argument {overwritten}")

    def _explain(self, message: str, memory: _Memory) -> str:
        """`{pc ...}`, `{shared ...}` and `{argument ...}` in a message become lines, names and elements."""
        message = re.sub(r"\{pc ([0-9a-f]+)\}", lambda m: self._line(m[1]), message)
        message = re.sub(r"\{shared (\d+)\}", lambda m: self._shared_name(int(m[1])), message)
        return re.sub(r"\{argument (\d+) (-?\d+)\}", lambda m: memory.element(int(m[1]), int(m[2])), message)

    def _line(self, pc: str) -> str:
        """The line of the kernel text from which the code at `pc` was inlined."""
        command = ["addr2line", "-i", "-e", str(self._path), hex(int(pc, 16) - 1)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        lines = [re.sub(r"^(\./)+", "", line.split(" ")[0]) for line in lines]
        return next((line for line in lines if not line.startswith(str(INCLUDE))), lines[0])

    def _shared_name(self, offset: int) -> str:
        """The shared variable at an offset into a block's shared memory."""
        command = ["readelf", "--syms", "--wide", str(self._path)]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            match = re.match(r"\s*\d+: ([0-9a-f]+)\s+(\d+) TLS .* (\S+)$", line)
            if match and int(match[1], 16) <= offset < int(match[1], 16) + int(match[2]):
                name = subprocess.run(["c++filt", match[3]], capture_output=True, text=True, check=True).stdout.strip()
                return f"{name.split('::')[-1]}, byte {offset - int(match[1], 16)}"
        return f"byte {offset}"


def _three(kernel: str, what: str, sizes: Sequence[int]) -> tuple[int, int, int]:
    if not 1 <= len(sizes) <= 3 or any(size < 0 for size in sizes):
        raise EmulationError(kernel, "launch", f"{what} is {tuple(sizes)}; expected one to three sizes")
    x, y, z = (*sizes, 1, 1)[:3]
    return int(x), int(y), int(z)


@dataclass
class _Span:
    """Memory that one array takes, or several that overlap."""

    begin: int
    end: int
    array: np.ndarray  # one of them
    argument: int
    in_place: bool
    moved_to: int = 0


class _Memory:
    """The memory of a launch: arrays that overlap share a span, spans lie apart with guards between them."""

    def __init__(self, kernel: str, args: Sequence[Any], in_place: Sequence[np.ndarray]) -> None:
        arrays = [(i, a) for i, a in enumerate(_flat(args)) if _is_array(a)]
        for number, array in arrays:
            if not array.flags.c_contiguous:
                raise EmulationError(kernel, "launch", f"argument {number} is not C-contiguous")
        self._args = args
        self._spans = _spans([(-1, a, True) for a in in_place] + [(i, a, False) for i, a in arrays])
        self._starts = [span.begin for span in self._spans]
        self._place()
        self.regions = [_Region(span.moved_to, span.end - span.begin, span.argument) for span in self._spans]
        self._values: list[Any] = []  # keeps alive what arguments point to
        self.arguments = [self._argument(kernel, i, a) for i, a in enumerate(args)]

    def _place(self) -> None:
        """Copy spans side by side, each as aligned as it is within the array that owns its memory."""
        offset, places = 0, []
        for span in self._spans:
            offset += GUARD
            offset += -offset % 256 + _misalignment(span)
            places.append(offset)
            offset += 0 if span.in_place else span.end - span.begin
        self._arena = np.empty(offset + GUARD + 256, np.uint8)
        base = self._arena.ctypes.data
        base += -base % 256
        shift = base - self._arena.ctypes.data
        self._guards: list[tuple[int, np.ndarray]] = []
        for number, (span, place) in enumerate(zip(self._spans, places, strict=True)):
            if span.in_place:
                span.moved_to = span.begin
                continue
            span.moved_to = base + place
            begin, end = shift + place, shift + place + span.end - span.begin
            self._arena[begin:end] = _bytes_at(span.begin, span.end - span.begin)
            for guard in (self._arena[begin - CANARY_BYTES : begin], self._arena[end : end + CANARY_BYTES]):
                guard[:] = CANARY
                self._guards.append((number, guard))

    def copy_back(self) -> int | None:
        """Returns an argument that is read-only and was written all the same."""
        overwritten = None
        for span in self._spans:
            before, after = (_bytes_at(start, span.end - span.begin) for start in (span.begin, span.moved_to))
            if span.array.flags.writeable:
                before[:] = after
            elif not np.array_equal(before, after):
                overwritten = span.argument
        return overwritten

    def overrun(self) -> str | None:
        """Which array something wrote beside; None if nothing did."""
        for position, (number, guard) in enumerate(self._guards):
            (touched,) = np.nonzero(guard != CANARY)
            if touched.size:
                size = self._spans[number].end - self._spans[number].begin
                past_the_end = position % 2
                byte = touched[0] + (size if past_the_end else -CANARY_BYTES)
                return f"something wrote to {self.element(number, int(byte))}"
        return None

    def element(self, region: int, offset: int) -> str:
        """A byte of a region in words: the argument and its element."""
        span = self._spans[region]
        name = f"argument {span.argument}" if span.argument >= 0 else "an array of in_place"
        position = offset - (span.array.ctypes.data - span.begin)
        if not 0 <= position < span.array.nbytes:
            return f"byte {position} of {name}, which has {span.array.nbytes}"
        index = np.unravel_index(position // span.array.itemsize, span.array.shape)
        return f"{name}[{', '.join(str(int(i)) for i in index)}]"

    def _argument(self, kernel: str, number: int, value: Any) -> _Argument:
        data: Any
        if value is None:
            data, kind = ctypes.c_void_p(), b"p"
        elif _is_array(value):
            span = self._spans[bisect.bisect_right(self._starts, value.ctypes.data) - 1]
            data, kind = ctypes.c_void_p(value.ctypes.data - span.begin + span.moved_to), b"p"
        elif isinstance(value, np.generic | np.ndarray):  # a struct that is packed already holds true addresses
            data = ctypes.create_string_buffer(value.tobytes(), value.nbytes)
            kind = {"b": b"i", "i": b"i", "u": b"i", "f": b"f"}.get(value.dtype.kind, b"?")
        elif isinstance(value, int):
            data, kind = ctypes.c_int64(value), b"i"
        elif isinstance(value, float):
            data, kind = ctypes.c_double(value), b"f"
        elif isinstance(value, tuple):
            whole, _ = self._struct(kernel, number, value)
            data, kind = ctypes.create_string_buffer(whole, len(whole)), b"?"
        else:
            raise EmulationError(kernel, "launch", f"argument {number} is a {type(value).__name__}")
        self._values.append(data)
        return _Argument(ctypes.addressof(data), ctypes.sizeof(data), kind)

    def _struct(self, kernel: str, number: int, fields: tuple[Any, ...]) -> tuple[bytes, int]:
        """A tuple as C++ has a struct of these fields, and its alignment."""
        whole, most = b"", 1
        for field in fields:
            if isinstance(field, tuple):
                part, alignment = self._struct(kernel, number, field)
            else:
                argument = self._argument(kernel, number, field)
                part, alignment = ctypes.string_at(argument.value, argument.size), argument.size
            whole += bytes(-len(whole) % alignment) + part
            most = max(most, alignment)
        return whole + bytes(-len(whole) % most), most


def _is_array(value: Any) -> bool:
    """Whether it is passed by address."""
    return isinstance(value, np.ndarray) and not (value.dtype.names and value.ndim == 0)


def _flat(args: Sequence[Any]) -> list[Any]:
    """Arguments and fields of structs, one after the other."""
    return [leaf for arg in args for leaf in (_flat(arg) if isinstance(arg, tuple) else [arg])]


def _spans(arrays: Sequence[tuple[int, np.ndarray, bool]]) -> list[_Span]:
    spans: list[_Span] = []
    for argument, array, in_place in sorted(arrays, key=lambda entry: entry[1].ctypes.data):
        begin = array.ctypes.data
        new = _Span(begin, begin + array.nbytes, array, argument, in_place)
        if spans and begin < spans[-1].end:
            last = spans[-1]
            last.end = max(last.end, new.end)
            last.in_place |= in_place
            if array.flags.writeable and not last.array.flags.writeable:
                last.array = array
        else:
            spans.append(new)
    return spans


def _misalignment(span: _Span) -> int:
    """How far into the memory of its owner a span begins, modulo what cudaMalloc aligns to."""
    owner = span.array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return (span.begin - owner.ctypes.data) % 256


def _bytes_at(address: int, size: int) -> np.ndarray:
    if size == 0:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
