"""The CuPy backend as tests want it, and the CUDA backend's host part where there is no CuPy."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types

import numpy as np
import pytest

from gpu_lstm.backend import CupyBackend
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.native import kernels
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence.cuda import sequence
from tests.conftest import gpu_or_reason
from tests.device.support import Seed, needs_machine

try:
    from ml_dtypes import bfloat16
except ImportError:  # NumPy has no bfloat16 of its own
    DTYPES: tuple[str, ...] = ("float32", "float64", "float16")
else:
    DTYPES = tuple(kernels.STORAGE)
H100 = Device(multiprocessors=132, shared_bytes=227 * 1024, capability=90)
ORDERS = range(1, 21)
"""Seeds of the order of threads, besides the one that there is without."""


def _marked(marks):
    return lambda test: functools.reduce(lambda marked, mark: mark(marked), marks, test)


on_the_machine = _marked(needs_machine)
"""For tests on the GPU that isn't there: its threads have an order, and it stands mistakes."""
at_full_size = _marked([pytest.mark.gpu, pytest.mark.slow])
"""For tests on a GPU of hardware: an interpreter takes minutes."""


def dtype_of(name):
    """NumPy's dtype of that name."""
    return np.dtype(bfloat16 if name == "bfloat16" else name)


def stored(array, dtype):
    """As the storage dtype has it."""
    return array.astype(dtype_of(dtype))


def on_host(backend, array):
    """In float64, to compare."""
    return backend.to_numpy(array).astype(np.float64)


class Gpu(CupyBackend):
    """This GPU, or as much of it as a smaller or older one has; `launches` has what was asked of it, by name.

    Parameters
    ----------
    limits : Device, optional
        Tests that want more than there is are skipped.
    seed : int, optional
        The order of threads, on the machine of tests/device.
    memory : bool
        With it the order in which memory is seen: races, missing fences and reads of what nobody wrote are errors.
    change : tuple of str, optional
        A line of the kernels and what stands there instead: a planted mistake.
    """

    def __init__(self, limits=None, seed=None, memory=False, tf32=False, change=()):
        self.there = gpu_or_reason()
        vars(self).update(vars(self.there))
        CudaBackend.__init__(self)
        self.tf32, self.seed, self.memory_order, self.change = tf32, seed, memory, change
        self.launches, self._changed = [], {}
        for name, wanted in vars(limits or self.limits).items():
            if wanted is not None and wanted > getattr(self.limits, name):
                pytest.skip(f"{self.why} has {name} {getattr(self.limits, name)}; {wanted} are needed")
        self.limits = limits or self.limits

    def matmul(self, a, b, out, add=False):
        self.launches.append("matmul")
        return super().matmul(a, b, out, add)

    def kernel(self, kernel):
        launch = self._launch_of(kernel)

        def noted(*arguments, **more):
            self.launches.append(kernel.name)
            with contextlib.nullcontext() if self.seed is None else Seed(self.seed, self.memory_order):
                launch(*arguments, **more)

        return noted

    def _launch_of(self, kernel):
        """Compiled once for all of them, unless it is changed or debugged."""
        if not self.change and not kernels.watchdog():
            return self.there.kernel(kernel)
        if kernel not in self._changed:
            self._changed[kernel] = self._compile(Changed(*dataclasses.astuple(kernel), *self.change))
        return self._changed[kernel]


@dataclasses.dataclass(frozen=True)
class Changed(kernels.Kernel):
    """A kernel with one change of its text."""

    right: str = ""
    wrong: str = ""

    @property
    def source(self):
        source = super().source
        assert self.right in source
        return source.replace(self.right, self.wrong)


class Zeros:
    """NumPy, which leaves no memory as it was."""

    def __getattr__(self, name):
        return getattr(np, {"empty": "zeros", "empty_like": "zeros_like"}.get(name, name))


class HostBackend(CudaBackend):
    """The host's part of the CUDA backend, over NumPy arrays: launches are noted by name and not done."""

    name = "cuda"
    why = "cuda (tests: nothing is launched)"
    xp = Zeros()

    def __init__(self, limits=H100):
        super().__init__()
        self.limits, self.launches = limits, []

    def asarray(self, value, dtype=None):
        return np.asarray(value, dtype=None if dtype is None else self.dtype(dtype))

    def __contains__(self, x):
        return isinstance(x, np.ndarray)

    def to_numpy(self, x):
        return np.array(x)

    def matmul(self, a, b, out, add=False):
        self.launches.append("matmul")
        return out

    def kernel(self, kernel):
        return lambda *_, **__: self.launches.append(kernel.name)


def room_beside(monkeypatch, room=True):
    """The sequence tier leaves room for products beside it, or none, whatever the model says."""
    monkeypatch.setattr(sequence, "beside", lambda *_: types.SimpleNamespace(saved=float(room), words=str))
