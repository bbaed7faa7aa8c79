"""The NumPy backend: any CPU."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend.base import Array, Backend, Rule, numpy_dtype
from gpu_lstm.backend.exchange import CPU, CUDA_HOST, CUDA_MANAGED, adopt, foreign
from gpu_lstm.errors import InputError
from gpu_lstm.native import compiled
from gpu_lstm.native.entries import WRITABLE, blocks
from gpu_lstm.native.pool import POOL

RULES = ("sgd", "rmsprop", "adam")
"""Optimizer rules of ``kernels/cpu/training.h``, by number."""
LANES = 16
"""Numbers in the widest register."""
EXP_COST, UPDATE_COST = 16, 8
"""What an element costs there, in multiply-adds."""


class NumpyBackend(Backend):
    """Arrays are ``numpy.ndarray`` in host memory."""

    name = "numpy"
    kernels = "cpu"

    def __init__(self, why: str = "numpy"):
        self.xp = np
        self.why = why

    def asarray(self, value: Any, dtype: str | None = None) -> Array:  # noqa: D102
        return np.asarray(value, dtype=None if dtype is None else numpy_dtype(dtype))

    def to_numpy(self, x: Array) -> np.ndarray:  # noqa: D102
        return np.array(x)

    def owns(self, x: Any) -> bool:  # noqa: D102
        return type(x) in (np.ndarray, np.memmap)  # other kinds have a meaning of their own: a mask, units

    def receive(self, name: str, x: Any) -> Array:  # noqa: D102
        if self.owns(x):
            return x
        if isinstance(x, np.ndarray):
            raise foreign(name, x, self.name)
        ways = (("__dlpack__", np.from_dlpack), ("__array__", np.asarray))
        return adopt(name, x, self.name, (CPU, CUDA_HOST, CUDA_MANAGED), 0, ways)

    def dtype(self, name: str) -> Any:  # noqa: D102
        return numpy_dtype(name)

    def widened(self, x: Array) -> Array:  # noqa: D102
        # Without asking wider ones for their dtype's name, which takes NumPy microseconds.
        return x if x.dtype.itemsize > 2 else super().widened(x)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:  # noqa: D102
        return POOL.empty(shape, dtype)

    def matmul(self, a: Array, b: Array, out: Array, add: bool = False) -> Array:  # noqa: D102
        return super().matmul(a, b, out, add) if add else np.matmul(a, b, out=out)

    def product(  # noqa: D102
        self, a: Array, b: Array, bias: Array | None = None, dtype: str | None = None, out: Array | None = None
    ) -> Array:
        # The compiled product, where there is one, for its threads: those of BLAS keep spinning after their work and
        # slow the compiled recurrence that comes next to a half and less.
        wide_a, wide_b = self.widened(a), self.widened(b)
        if not compilable(wide_a):
            return super().product(a, b, bias, dtype, out)
        c = compiled.multiply(wide_a, wide_b, bias)
        if out is None:
            return c if wide_a is a and dtype is None else self.asarray(c, dtype or str(a.dtype))
        out[...] = c
        return out

    def weight_gradients(self, dy: Array, inputs: Sequence[Array]) -> tuple[list[Array], Array]:  # noqa: D102
        wide_dy, wide = self.widened(dy), [self.widened(x) for x in inputs]
        if not (compilable(wide_dy) and len(wide) in (1, 2)):
            return super().weight_gradients(dy, inputs)
        return compiled.weight_gradients(wide_dy, wide)

    def watch(self, arrays: Sequence[Array]) -> Callable[[], int | None]:  # noqa: D102
        if compiled.library() is not None:
            return compiled.watch(arrays)
        before = [_digest(array) for array in arrays]
        return lambda: next((place for place, array in enumerate(arrays) if _digest(array) != before[place]), None)

    def tanh(self, x: Array, out: Array) -> Array:  # noqa: D102
        return np.tanh(x, out=out)

    def multiply(self, a: Array, b: Array, out: Array) -> Array:  # noqa: D102
        return np.multiply(a, b, out=out)

    def take_rows(self, table: Array, index: Array) -> Array:  # noqa: D102
        size, _ = self.require("table", table, ("V", "M")).shape
        index = self._whole_numbers("index", index, "N")
        self.require_range("index", index, size, "V")
        return super().take_rows(table, index)

    def scatter_add(self, target: Array, index: Array, rows: Array) -> None:  # noqa: D102
        size, width = self._to_write("target", target, ("V", "M")).shape
        index = self._whole_numbers("index", index, "N")
        rows = self.require("rows", rows, (len(index), width))
        if compilable(target) and plain_memory(target):  # which refuses numbers out of range itself
            threads = compiled.threads_for(rows.size, width // LANES)
            compiled.call("scatter_add", target.dtype, size, *rows.shape, target, index, rows, threads)
            return
        self.require_range("index", index, size, "V")
        # Sorting first turns scattered additions into a few contiguous sums: np.add.at is many times slower.
        order = np.argsort(index, kind="stable")
        present, starts = np.unique(index[order], return_index=True)
        if present.size:
            target[present] += np.add.reduceat(rows[order], starts, axis=0)

    def softmax_cross_entropy(self, logits: Array, targets: Array, ignore_index: int | None) -> Array:  # noqa: D102
        rows, vocabulary = self._to_write("logits", logits, ("N", "V")).shape
        targets = self._whole_numbers("targets", targets, f"N={rows}")
        if not (plain_memory(logits) and logits.dtype.isnative):
            plain = np.array(logits, logits.dtype.newbyteorder("="), order="C")
            loss = self.softmax_cross_entropy(plain, targets, ignore_index)
            logits[...] = plain
            return loss
        self.require_range("targets", targets, vocabulary, "V", ignore_index)  # compiled code passes over -1
        if not compilable(logits):
            return super().softmax_cross_entropy(logits, targets, ignore_index)
        number = rows
        if ignore_index is not None:
            counts = targets != ignore_index
            targets, number = np.where(counts, targets, -1), np.count_nonzero(counts)
        scale, losses = 1 / max(number, 1), np.empty(rows, logits.dtype)
        threads = compiled.threads_for(EXP_COST * logits.size, rows)
        compiled.call("cross_entropy", logits.dtype, rows, vocabulary, logits, targets, scale, losses, threads)
        return np.sum(losses, dtype=np.float64).astype(logits.dtype) * logits.dtype.type(scale)

    def norm(self, arrays: Sequence[Array]) -> Array:  # noqa: D102
        if not compilable(*arrays):
            return super().norm(arrays)
        sizes = [array.size for array in arrays]
        sums = np.zeros(blocks(sizes))
        threads = compiled.threads_for(sum(sizes), len(sums))
        compiled.call("square_sums", arrays[0].dtype, len(arrays), sizes, arrays, sums, threads)
        return np.sqrt(np.sum(sums))

    def move(  # noqa: D102
        self,
        optimizer: Rule,
        params: Sequence[Array],
        gradients: Sequence[Array],
        states: Sequence[Sequence[Array]],
        numbers: Sequence[float],
        scale: float,
    ) -> None:
        flat = [array for state in states for array in state]
        for n, (param, gradient, state) in enumerate(zip(params, gradients, states, strict=True)):
            self._to_write(f"params[{n}]", param, param.shape)
            for array in state:
                self._to_write(f"states[{n}]", array, param.shape)
            self.require(f"gradients[{n}]", gradient, param.shape)
        if optimizer.rule in RULES and compilable(*params, *gradients, *flat) and plain_memory(*params, *flat):
            sizes = [param.size for param in params]
            compiled.call(
                "update", params[0].dtype, RULES.index(optimizer.rule), len(params), sizes, params, gradients, flat,
                np.array(numbers, np.float64), scale, compiled.threads_for(UPDATE_COST * sum(sizes), len(params)),
            )  # fmt: skip
            return
        # Gradients are scaled in place, and what is overwritten as one parameter moves is no other one's gradient.
        moved = (*params, *flat)
        own = [
            g if g.flags.writeable and not any(np.may_share_memory(g, x) for x in moved) else g.copy()
            for g in gradients
        ]
        super().move(optimizer, params, own, states, numbers, scale)

    def _to_write(self, name: str, array: Array, shape: tuple[Any, ...]) -> Array:
        """The array, if it has that shape and can be written."""
        if not self.require(name, array, shape).flags.writeable:
            raise InputError(f"{name} is read-only; expected an array to write to")
        return array

    def _whole_numbers(self, name: str, index: Array, count: str) -> Array:
        """The array, if it has so many whole numbers."""
        index = self.require(name, index, (count,))
        if index.dtype.kind not in "iu":
            raise InputError(f"{name} has dtype {index.dtype}; expected integers")
        return index

    def available(self) -> int | None:  # noqa: D102
        return free_memory()

    def describe(self) -> dict[str, str]:  # noqa: D102
        return {"backend": self.name, "numpy": np.__version__, "device": _processor()}


def compilable(*arrays: np.ndarray) -> bool:
    """Whether the compiled library is there and has the dtype of these arrays, one for all."""
    return (
        compiled.library() is not None
        and len(arrays) > 0
        and arrays[0].dtype in compiled.SUFFIXES
        and all(array.dtype == arrays[0].dtype for array in arrays)
    )


def _digest(array: np.ndarray) -> bytes:
    """Of all bytes of an array in its order."""
    return hashlib.blake2b(compiled.in_bytes(array).data).digest()


def plain_memory(*arrays: np.ndarray) -> bool:
    """Whether arrays lie in memory as compiled code writes them: without gaps, aligned."""
    return all(array.flags.num & WRITABLE == WRITABLE for array in arrays)


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take: of the machine, and of its control group where that has a limit."""
    found = []
    try:
        for line in (root / "proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            left = int((root / limit).read_text("ascii")) - int((root / used).read_text("ascii"))
            lines = (root / limit).with_name("memory.stat").read_text("ascii").splitlines()
            statistics = dict(line.split() for line in lines)
            found.append(left + int(statistics.get("inactive_file", 0)))  # files that were read: given up when needed
        except (OSError, ValueError):
            pass
    return min(found) if found else None


def _processor() -> str:
    """Name of the processor, as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
