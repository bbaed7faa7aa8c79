"""The CUDA backend with NumPy arrays and emulated launches: all of its host code and all kernels, without a GPU."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from gpu_lstm.backend import kernels
from gpu_lstm.backend.cuda import CudaBackend, Device
from tests.emulator import build, missing

try:
    from ml_dtypes import bfloat16
except ImportError:  # NumPy has no bfloat16 of its own
    DTYPES: tuple[str, ...] = ("float32", "float64", "float16")
else:
    DTYPES = tuple(kernels.STORAGE)
EVERY_DTYPE = [pytest.param(dtype, marks=[pytest.mark.slow] * (dtype != "float32")) for dtype in DTYPES]
"""For parametrize: compiling a kernel for the emulator takes seconds, so all but float32 are left to the slow tests."""
H100 = Device(multiprocessors=132, shared_bytes=227 * 1024, capability=90)
ORDERS = range(1, 24)
"""Seeds of the order of threads, besides the one that backends have by default."""
NEEDS_EMULATOR = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
"""Compiling a kernel takes seconds: a user's run has those of the fixture `cuda` in float32, slow tests the rest."""


def needs_emulator(test):
    """Mark a test that launches kernels in the emulator."""
    for mark in NEEDS_EMULATOR:
        test = mark(test)
    return test


def dtype_of(name):
    """NumPy's dtype of that name."""
    return np.dtype(bfloat16 if name == "bfloat16" else name)


def stored(array, dtype):
    """As the storage dtype has it."""
    return array.astype(dtype_of(dtype))


def on_host(backend, array):
    """In float64, to compare."""
    return backend.to_numpy(array).astype(np.float64)


class EmulatedBackend(CudaBackend):
    """Launches run in the emulator; `launches` records them, `seed` sets the order of threads."""

    name = "emulated"
    why = "emulated (tests)"

    def __init__(self, mode="fast", seed=0, limits=H100):
        super().__init__()
        self.limits = limits
        self.xp = np
        self.mode, self.seed = mode, seed
        self.launches = []
        self._reached = []

    def asarray(self, value, dtype=None):
        return np.asarray(value, dtype=None if dtype is None else self.dtype(dtype))

    def owns(self, x):
        return isinstance(x, np.ndarray)

    def to_numpy(self, x):
        return np.array(x)

    def matmul(self, a, b, out, add=False):
        # As cuBLAS does: sums in float32 for 16-bit matrices, one rounding at the end.
        self.launches.append("matmul")
        wide = np.promote_types(a.dtype, np.float32)
        product = a.astype(wide) @ b.astype(wide)
        out[...] = product + out if add else product
        return out

    def kernel(self, kernel):
        module = module_of(kernel, self.mode)

        def launch(grid, block, args, shared_bytes=0):
            self.launches.append(kernel.name)
            # A kernel that takes a table reaches arrays by the addresses in it.
            reached = self._reached if kernel.file == "optimizer.cu" else ()
            module.launch(
                kernel.expression,
                grid,
                block,
                args,
                shared_mem=shared_bytes,
                cooperative=kernel.cooperative,
                cluster=(kernel.cluster,),
                seed=self.seed,
                in_place=reached,
            )

        return launch

    def _table(self, lines, numbers=tuple):
        self._reached = [array for arrays in lines for array in arrays if array is not None]
        return super()._table(lines, numbers)


@functools.cache
def _groups():
    """Kernels by their text: the instances of one text are built together."""
    groups = {}
    for kernel in kernels.every_kernel():
        groups.setdefault(kernel.source, []).append(kernel.expression)
    return groups


@functools.cache
def _module(source, mode, names):
    return build(source, mode=mode, names=names)


def module_of(kernel, mode):
    """The emulator's module that has this kernel, built once."""
    # The sequence kernels are large and many: each by itself, when it is needed.
    alone = kernel.file == "sequence.cu"
    return _module(kernel.source, mode, (kernel.expression,) if alone else tuple(_groups()[kernel.source]))
