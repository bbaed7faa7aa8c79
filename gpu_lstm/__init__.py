"""The LSTM and its backpropagation through time, from scratch over NumPy and CuPy."""

import importlib
from typing import Any

from gpu_lstm.backend import choose
from gpu_lstm.errors import BackendError, GpuLstmError, InputError
from gpu_lstm.layers import LSTM, Dropout, Embedding, Linear, LSTMCell, Stack

__version__ = "0.1.0"
__all__ = [
    "LSTM", "BackendError", "Dropout", "Embedding", "GpuLstmError", "InputError", "LSTMCell", "Linear", "Stack",
    "choose", "load",
]  # fmt: skip

_LATER = {"load": "gpu_lstm.training.loading"}
"""Names from rooms that are imported when they are first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
