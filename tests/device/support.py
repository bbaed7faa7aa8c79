from __future__ import annotations

import os

import pytest

from tests.device.build import on_the_machine

needs_machine = [
    pytest.mark.gpu,
    pytest.mark.skipif(not on_the_machine(), reason="runs on `python -m tests.device`, no GPU of hardware"),
]


def module_of(code):
    """A module of CUDA text, each kernel by its name."""
    import cupy

    return cupy.RawModule(code=code, options=("-std=c++17",))


def alone(array):
    """A copy in memory of its own, whose ends are known: CuPy's pool gives parts of larger pieces."""
    import cupy

    with cupy.cuda.using_allocator(None):
        return cupy.array(array)


class Seed:
    """The order of lanes, warps and blocks while it is entered, and, if asked for, that of memory."""

    def __init__(self, number, memory=False):
        names = ("SEED", "ORDER") if memory else ("SEED",)
        self.variables = {f"GPU_LSTM_DEVICE_{name}": str(number) for name in names}

    def __enter__(self):
        os.environ.update(self.variables)

    def __exit__(self, *error):
        for name in self.variables:
            del os.environ[name]


class Turns(Seed):
    """The order of work on streams that don't wait for each other, while it is entered."""

    def __init__(self, number):
        self.variables = {"GPU_LSTM_DEVICE_STREAMS": str(number)}
