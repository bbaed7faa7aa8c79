"""An LSTM as other libraries hold one: host arrays by layer and direction, in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpu_lstm.layers import LSTM
from gpu_lstm.recurrence.quantized import Quantized

Arrays = Mapping[str, np.ndarray]
"""The parameters of one layer in one direction: ``weight_ih``, ``weight_hh``, ``bias``, ... as in `LSTM`, gate order i,
f, g, o."""


def endings(lstm: LSTM, layer: int) -> list[str]:
    """Return how the names of a layer's parameters end, by direction."""
    return [f"_l{layer}", f"_l{layer}_reverse"][: lstm.num_directions]


def wide(array: Any) -> Any:
    """Return a parameter, or the numbers that one of few bits stands for."""
    return array.wide() if isinstance(array, Quantized) else array


def arrays_of(lstm: LSTM) -> list[list[dict[str, np.ndarray]]]:
    """Return the parameters of an LSTM on the host: of each layer, of each direction, by their names without ending."""
    host = {name: np.asarray(lstm.backend.to_numpy(wide(array))) for name, array in lstm.params.items()}
    return [
        [
            {name.removesuffix(ending): array for name, array in host.items() if name.endswith(ending)}
            for ending in endings(lstm, layer)
        ]
        for layer in range(lstm.num_layers)
    ]


def lstm_of(layers: Sequence[Sequence[Arrays]], **options: Any) -> LSTM:
    """Make an LSTM of these sizes and parameters, as `arrays_of` gives them; what it has no parameter for is left out.

    `layers` has an entry a layer, each with one a direction; `options` are further arguments of `LSTM`.
    """
    first = layers[0][0]
    (_, input_size), (_, hidden_size) = first["weight_ih"].shape, first["weight_hh"].shape
    lstm = LSTM(input_size, hidden_size, len(layers), bidirectional=len(layers[0]) == 2, **options)
    for number, directions in enumerate(layers):
        for arrays, ending in zip(directions, endings(lstm, number), strict=True):
            for name in arrays:
                if name + ending in lstm.params:
                    host = np.ascontiguousarray(arrays[name].astype(lstm.param_dtype))
                    lstm.params[name + ending][...] = lstm.backend.asarray(host, lstm.param_dtype)
    return lstm


def gate_scale(hidden_size: int, slope: float) -> np.ndarray:
    """Return factors (4H,) for the rows of i, f and o, 1 for those of g: a hard sigmoid `slope` times as steep."""
    return np.repeat([slope, slope, 1.0, slope], hidden_size)
