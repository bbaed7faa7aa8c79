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
    """The order of lanes, warps and blocks while it is entered."""

    def __init__(self, number):
        self.number = str(number)

    def __enter__(self):
        os.environ["GPU_LSTM_DEVICE_SEED"] = self.number

    def __exit__(self, *error):
        del os.environ["GPU_LSTM_DEVICE_SEED"]
