"""The LSTM and its backpropagation through time, from scratch over NumPy and CuPy."""

from gpu_lstm.backend import choose
from gpu_lstm.errors import BackendError, GpuLstmError, InputError
from gpu_lstm.layers import LSTM, Dropout, Embedding, Linear, LSTMCell, Stack

__version__ = "0.1.0"
__all__ = [
    "LSTM", "BackendError", "Dropout", "Embedding", "GpuLstmError", "InputError", "LSTMCell", "Linear", "Stack",
    "choose",
]  # fmt: skip
