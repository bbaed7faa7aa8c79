"""The NumPy backend: any CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm.backend.base import Array, Backend, numpy_dtype
from gpu_lstm.backend.exchange import CPU, CUDA_HOST, CUDA_MANAGED, adopt, foreign
from gpu_lstm.backend.host import free_memory, processor
from gpu_lstm.native.pool import POOL


class NumpyBackend(Backend):
    """Arrays are ``numpy.ndarray`` in host memory; `why` it was chosen is what it says of itself."""

    name = "numpy"
    kernels = "cpu"
    takes_out = True

    def __init__(self, why: str = "numpy"):
        self.xp = np
        self.why = why

    def asarray(self, value: Any, dtype: str | None = None) -> Array:  # noqa: D102
        return np.asarray(value, dtype=None if dtype is None else numpy_dtype(dtype))

    def to_numpy(self, x: Array) -> np.ndarray:  # noqa: D102
        return np.array(x)

    def __contains__(self, x: Any) -> bool:
        return type(x) in (np.ndarray, np.memmap)  # other kinds have a meaning of their own: a mask, units

    def _adopt(self, name: str, x: Any) -> Array:
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

    def memory(self, release: bool = False) -> int | None:  # noqa: D102
        return free_memory()

    def describe(self) -> dict[str, str]:  # noqa: D102
        return {"backend": self.name, "numpy": np.__version__, "device": processor()}
