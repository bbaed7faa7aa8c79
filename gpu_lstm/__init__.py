"""The LSTM and its backpropagation through time, from scratch over NumPy and CuPy."""

import importlib
from typing import Any

from gpu_lstm.backend import choose
from gpu_lstm.errors import BackendError, GpuLstmError, InputError
from gpu_lstm.layers import LSTM, Concat, Dropout, Embedding, Linear, LSTMCell, Pool, Reversed, Stack

__version__ = "0.1.0"

_LATER = {
    "losses": ("huber", "mean_absolute", "mean_squared", "softmax_cross_entropy"),
    "models": ("Classifier", "Forecaster", "LanguageModel", "Model", "Padded", "Regressor", "Tagger", "compose"),
    "optimizers": ("SGD", "Adam", "AdamW", "RMSProp"),
    "training": ("EarlyStop", "TensorBoard", "TrainingError", "find_learning_rate", "fit", "load", "save"),
}
"""Names that are imported where they are first asked for, by the room that they are from; ``__init__.pyi`` has all."""

__all__ = [
    "LSTM", "BackendError", "Concat", "Dropout", "Embedding", "GpuLstmError", "InputError", "LSTMCell", "Linear",
    "Pool", "Reversed", "Stack", "choose",
]  # fmt: skip
__all__ += sorted(name for names in _LATER.values() for name in names)


def __getattr__(name: str) -> Any:
    for room, names in _LATER.items():
        if name in names:
            found = globals()[name] = getattr(importlib.import_module(f"gpu_lstm.{room}"), name)
            return found
    raise AttributeError(f"module 'gpu_lstm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
