from __future__ import annotations

import functools

import pytest

from gpu_lstm.backend import CupyBackend, NumpyBackend
from gpu_lstm.errors import BackendError
from gpu_lstm.native import pool
from tests.device.build import on_the_machine


@functools.cache
def gpu_or_reason():
    try:
        backend = CupyBackend()
        if on_the_machine():  # each array by itself, so that its ends are known
            backend.xp.cuda.set_allocator(None)
        return backend
    except BackendError as error:
        return str(error)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and isinstance(gpu_or_reason(), str):
        pytest.skip(gpu_or_reason())


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request):
    """NumPy, and CuPy where there is a GPU."""
    return NumpyBackend() if request.param == "numpy" else gpu_or_reason()


@pytest.fixture(params=[pytest.param("cupy", marks=pytest.mark.gpu)])
def cuda(request):
    """The CUDA kernels, where there is a GPU."""
    from tests.gpu import Gpu

    return Gpu()


@pytest.fixture
def without_pool(monkeypatch):
    """Every array from NumPy itself: what is needed at once, without the blocks that the pool keeps for later."""
    monkeypatch.setattr(pool, "SMALLEST", 1 << 62)
