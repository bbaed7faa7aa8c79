"""The NumPy backend: any CPU."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import compiled
from gpu_lstm.backend.base import Array, Backend


class NumpyBackend(Backend):
    """Arrays are ``numpy.ndarray`` in host memory."""

    name = "numpy"
    kernels = "cpu"

    def __init__(self, why: str = "numpy"):
        self.xp = np
        self.why = why

    def asarray(self, value: Any, dtype: str | None = None) -> Array:  # noqa: D102
        return np.asarray(value, dtype=dtype)

    def to_numpy(self, x: Array) -> np.ndarray:  # noqa: D102
        return np.array(x)

    def owns(self, x: Any) -> bool:  # noqa: D102
        return type(x) in (np.ndarray, np.memmap)  # other kinds have a meaning of their own: a mask, units

    def dtype(self, name: str) -> Any:  # noqa: D102
        return np.dtype(name)

    def matmul(self, a: Array, b: Array, out: Array) -> Array:  # noqa: D102
        return np.matmul(a, b, out=out)

    def product(self, a: Array, b: Array, bias: Array | None = None) -> Array:  # noqa: D102
        # The compiled product, where there is one, for its threads: those of BLAS keep spinning after their work and
        # slow the compiled recurrence that comes next to a half and less.
        if compiled.library() is None or a.dtype not in (np.float32, np.float64):
            return super().product(a, b, bias)
        return compiled.multiply(a, b, bias)

    def tanh(self, x: Array, out: Array) -> Array:  # noqa: D102
        return np.tanh(x, out=out)

    def multiply(self, a: Array, b: Array, out: Array) -> Array:  # noqa: D102
        return np.multiply(a, b, out=out)

    def scatter_add(self, target: Array, index: Array, rows: Array) -> None:  # noqa: D102
        # Sorting first turns scattered additions into a few contiguous sums: np.add.at is many times slower.
        order = np.argsort(index, kind="stable")
        present, starts = np.unique(index[order], return_index=True)
        if present.size:
            target[present] += np.add.reduceat(rows[order], starts, axis=0)

    def available(self) -> int | None:  # noqa: D102
        return free_memory()

    def describe(self) -> dict[str, str]:  # noqa: D102
        return {"backend": self.name, "numpy": np.__version__, "device": _processor()}


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
