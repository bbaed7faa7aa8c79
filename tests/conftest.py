from __future__ import annotations

import functools

import pytest

from gpu_lstm.backend import CupyBackend, NumpyBackend, pool
from gpu_lstm.errors import BackendError


@functools.cache
def gpu_or_reason():
    try:
        return CupyBackend()
    except BackendError as error:
        return str(error)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and isinstance(gpu_or_reason(), str):
        pytest.skip(gpu_or_reason())


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request):
    """NumPy, and CuPy where there is a GPU."""
    return NumpyBackend() if request.param == "numpy" else gpu_or_reason()


@pytest.fixture(params=["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def cuda(request):
    """The CUDA kernels: on the CPU, and on a GPU where there is one."""
    if request.param == "cupy":
        return gpu_or_reason()
    from tests.emulated import EmulatedBackend, missing

    if missing():
        pytest.skip(missing())
    return EmulatedBackend()


@pytest.fixture
def without_pool(monkeypatch):
    """Every array from NumPy itself: what is needed at once, without the blocks that the pool keeps for later."""
    monkeypatch.setattr(pool, "SMALLEST", 1 << 62)
