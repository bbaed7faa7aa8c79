"""The LSTM and its backpropagation through time, from scratch over NumPy and CuPy."""

import importlib
from typing import TYPE_CHECKING, Any

from gpu_lstm.backend import choose
from gpu_lstm.errors import BackendError, GpuLstmError, InputError
from gpu_lstm.layers import LSTM, Concat, Dropout, Embedding, Linear, LSTMCell, Pool, Reversed, Stack

if TYPE_CHECKING:
    from gpu_lstm.losses import huber as huber
    from gpu_lstm.losses import mean_absolute as mean_absolute
    from gpu_lstm.losses import mean_squared as mean_squared
    from gpu_lstm.losses import softmax_cross_entropy as softmax_cross_entropy
    from gpu_lstm.models import Classifier as Classifier
    from gpu_lstm.models import Forecaster as Forecaster
    from gpu_lstm.models import LanguageModel as LanguageModel
    from gpu_lstm.models import Model as Model
    from gpu_lstm.models import Padded as Padded
    from gpu_lstm.models import Regressor as Regressor
    from gpu_lstm.models import compose as compose
    from gpu_lstm.optimizers import SGD as SGD
    from gpu_lstm.optimizers import Adam as Adam
    from gpu_lstm.optimizers import AdamW as AdamW
    from gpu_lstm.optimizers import RMSProp as RMSProp
    from gpu_lstm.training import EarlyStop as EarlyStop
    from gpu_lstm.training import TensorBoard as TensorBoard
    from gpu_lstm.training import TrainingError as TrainingError
    from gpu_lstm.training import find_learning_rate as find_learning_rate
    from gpu_lstm.training import fit as fit
    from gpu_lstm.training import load as load
    from gpu_lstm.training import save as save

__version__ = "0.1.0"

_LATER = {
    "losses": ("huber", "mean_absolute", "mean_squared", "softmax_cross_entropy"),
    "models": ("Classifier", "Forecaster", "LanguageModel", "Model", "Padded", "Regressor", "compose"),
    "optimizers": ("SGD", "Adam", "AdamW", "RMSProp"),
    "training": ("EarlyStop", "TensorBoard", "TrainingError", "find_learning_rate", "fit", "load", "save"),
}
"""Names that are imported where they are first asked for, by the room that they are from."""

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
