"""Layers, each with a forward and a backward: embedding, LSTM, dropout, linear."""

from gpu_lstm.layers.base import Layer, Params, Tape
from gpu_lstm.layers.call import State
from gpu_lstm.layers.cell import LSTMCell
from gpu_lstm.layers.dropout import Dropout
from gpu_lstm.layers.embedding import Embedding
from gpu_lstm.layers.linear import Linear
from gpu_lstm.layers.lstm import LSTM
from gpu_lstm.layers.parameters import Parameters
from gpu_lstm.layers.pooling import Concat, Pool
from gpu_lstm.layers.reversed import Reversed
from gpu_lstm.layers.stack import Stack

__all__ = [
    "LSTM",
    "Concat",
    "Dropout",
    "Embedding",
    "LSTMCell",
    "Layer",
    "Linear",
    "Parameters",
    "Params",
    "Pool",
    "Reversed",
    "Stack",
    "State",
    "Tape",
]
