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


class Seed:
    """The order of lanes, warps and blocks while it is entered, and, if asked for, that of memory."""

    def __init__(self, number, memory=False):
        self.variables = {"GPU_LSTM_DEVICE_SEED": str(number)} | (
            {"GPU_LSTM_DEVICE_ORDER": str(number)} if memory else {}
        )

    def __enter__(self):
        os.environ.update(self.variables)

    def __exit__(self, *error):
        for name in self.variables:
            del os.environ[name]
