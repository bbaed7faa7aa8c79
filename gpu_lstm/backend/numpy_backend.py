"""The NumPy backend: any CPU."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import compiled
from gpu_lstm.backend.base import Array, Backend, Rule, numpy_dtype
from gpu_lstm.backend.exchange import CPU, CUDA_HOST, CUDA_MANAGED, adopt, foreign
from gpu_lstm.backend.pool import POOL

RULES = ("sgd", "rmsprop", "adam")
"""Optimizer rules of ``kernels/cpu/training.h``, by number."""
BLOCK = 4096
"""Elements of a block there."""
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
        if compiled.library() is None or wide_a.dtype not in (np.float32, np.float64):
            return super().product(a, b, bias, dtype, out)
        c = compiled.multiply(wide_a, wide_b, bias)
        if out is None:
            return self.asarray(c, dtype or str(a.dtype))
        out[...] = c
        return out

    def weight_gradients(self, dy: Array, inputs: Sequence[Array]) -> tuple[list[Array], Array]:  # noqa: D102
        dy, inputs = self.widened(dy), [np.ascontiguousarray(self.widened(x)) for x in inputs]
        if len(inputs) > 2 or not compilable(dy, *inputs):
            return super().weight_gradients(dy, inputs)
        return compiled.weight_gradients(dy, inputs)

    def fingerprints(self, arrays: Sequence[Array]) -> Any:  # noqa: D102
        if compiled.library() is None:
            return super().fingerprints(arrays)
        return compiled.fingerprints(arrays) if arrays else None

    def changed(self, arrays: Sequence[Array], fingerprints: Any) -> int | None:  # noqa: D102
        if compiled.library() is None or fingerprints is None:
            return super().changed(arrays, fingerprints)
        different = np.flatnonzero(compiled.fingerprints(arrays) != fingerprints)
        ends = np.cumsum([compiled.fingerprint_blocks(array) for array in arrays])
        return int(np.searchsorted(ends, different[0], side="right")) if different.size else None

    def tanh(self, x: Array, out: Array) -> Array:  # noqa: D102
        return np.tanh(x, out=out)

    def multiply(self, a: Array, b: Array, out: Array) -> Array:  # noqa: D102
        return np.multiply(a, b, out=out)

    def scatter_add(self, target: Array, index: Array, rows: Array) -> None:  # noqa: D102
        rows = np.ascontiguousarray(rows)
        if compilable(target, rows):
            threads = compiled.threads_for(rows.size, rows.shape[1] // LANES)
            compiled.call("scatter_add", target.dtype, *rows.shape, target, compiled.longs(index), rows, threads)
            return
        # Sorting first turns scattered additions into a few contiguous sums: np.add.at is many times slower.
        order = np.argsort(index, kind="stable")
        present, starts = np.unique(index[order], return_index=True)
        if present.size:
            target[present] += np.add.reduceat(rows[order], starts, axis=0)

    def softmax_cross_entropy(self, logits: Array, targets: Array, ignore_index: int | None) -> Array:  # noqa: D102
        if not (logits.flags.c_contiguous and logits.dtype.isnative):
            plain = np.ascontiguousarray(logits, logits.dtype.newbyteorder("="))
            loss = self.softmax_cross_entropy(plain, targets, ignore_index)
            logits[...] = plain
            return loss
        if not compilable(logits):
            return super().softmax_cross_entropy(logits, targets, ignore_index)
        number = len(targets) if ignore_index is None else np.count_nonzero(targets != ignore_index)
        scale = 1 / max(number, 1)
        losses = np.empty(len(targets), logits.dtype)
        compiled.call(
            "cross_entropy", logits.dtype, *logits.shape, logits, compiled.longs(targets), ignore_index is not None,
            ignore_index or 0, doubles([scale]), losses, compiled.threads_for(EXP_COST * logits.size, len(targets)),
        )  # fmt: skip
        return np.sum(losses, dtype=np.float64).astype(logits.dtype) * logits.dtype.type(scale)

    def norm(self, arrays: Sequence[Array]) -> Array:  # noqa: D102
        arrays = [np.ascontiguousarray(array) for array in arrays]
        if not compilable(*arrays):
            return super().norm(arrays)
        sizes = compiled.longs([array.size for array in arrays])
        sums = np.zeros(int(np.sum(-(-sizes // BLOCK))))
        threads = compiled.threads_for(int(sizes.sum()), len(sums))
        compiled.call("square_sums", arrays[0].dtype, len(arrays), sizes, compiled.pointers(arrays), sums, threads)
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
        flat, gradients = [array for state in states for array in state], [np.ascontiguousarray(g) for g in gradients]
        if not compilable(*params, *gradients, *flat):
            return super().move(optimizer, params, gradients, states, numbers, scale)
        sizes = compiled.longs([param.size for param in params])
        compiled.call(
            "update", params[0].dtype, RULES.index(optimizer.rule), len(params), sizes, compiled.pointers(params),
            compiled.pointers(gradients), compiled.pointers(flat), doubles(numbers), doubles([scale]),
            compiled.threads_for(UPDATE_COST * int(sizes.sum()), len(params)),
        )  # fmt: skip

    def available(self) -> int | None:  # noqa: D102
        return free_memory()

    def describe(self) -> dict[str, str]:  # noqa: D102
        return {"backend": self.name, "numpy": np.__version__, "device": _processor()}


def compilable(*arrays: np.ndarray) -> bool:
    """Whether the compiled library is there and takes these arrays: contiguous, of one dtype that it has."""
    return (
        compiled.library() is not None
        and len(arrays) > 0
        and arrays[0].dtype in (np.float32, np.float64)
        and all(array.dtype == arrays[0].dtype and array.flags.c_contiguous for array in arrays)
    )


def doubles(numbers: Sequence[float]) -> np.ndarray:
    """An array of C doubles."""
    return np.array(numbers, dtype=np.float64)


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
            left = int((root / limit).read_text()) - int((root / used).read_text())
            statistics = dict(line.split() for line in (root / limit).with_name("memory.stat").read_text().splitlines())
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
