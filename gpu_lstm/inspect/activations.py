"""Activations of every cell at every step: what the recurrence saves for its own backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers import LSTM
from gpu_lstm.layers.quantized import QuantizedLSTM
from gpu_lstm.models import Forecaster, LanguageModel, Model
from gpu_lstm.models.arguments import check_host
from gpu_lstm.recurrence import Problem, Saved

QUANTITIES = ("h", "c", "i", "f", "g", "o")
"""Hidden state, cell state, input gate, forget gate, candidate, output gate."""


def activations(model: Model | LSTM, data: np.ndarray) -> dict[str, np.ndarray]:
    """Run a model over one sequence from its first state, without dropout, and look at every cell.

    Parameters
    ----------
    model : LanguageModel, Forecaster or gpu_lstm.LSTM
    data : array, on the host
        Tokens (T,) for a language model, values (T, S) in the data's own units for a forecaster,
        inputs (T, input_size) for an LSTM.

    Returns
    -------
    dict of str to (num_layers * num_directions, T, H), for h (..., P) with a projection
        By `QUANTITIES`: states h and c after each step, activated gates i, f, g, o in it; in the dtype of the
        parameters, on the host. Index ``[layer, step, cell]``; with two directions the first axis is that of a `State`.

    Raises
    ------
    InputError
        The model is of another kind, or data has the wrong shape or values.

    Examples
    --------
    >>> from gpu_lstm.inspect import activations
    >>> found = activations(LSTM(8, 16, num_layers=2, backend="numpy"), np.ones((20, 8)))
    >>> sorted(found), found["c"].shape
    (['c', 'f', 'g', 'h', 'i', 'o'], (2, 20, 16))
    """
    lstm, x = inputs(model, data)
    every: list[Saved] = []
    plan = lstm.plan

    def forward(backend: Backend, problems: Sequence[Problem]) -> list[Saved]:
        found = plan.run.forward(backend, problems)
        every.extend(found)
        return found

    lstm.plan = replace(plan, run=replace(plan.run, forward=forward))
    try:
        lstm.forward(swap(lstm, x))
    finally:
        lstm.plan = plan
    places = lstm.num_layers * lstm.num_directions
    pieces = len(every) // places  # long sequences run piece by piece, see `gpu_lstm.layers.schedule.segments`
    found: dict[str, list[np.ndarray]] = {name: [] for name in QUANTITIES}
    for place in range(places):
        # One direction: all layers of a piece, then the next piece. Two: both in turns, then the next layer.
        own = every[place::places]
        if lstm.num_directions == 2:
            layer, direction = divmod(place, 2)
            own = every[2 * pieces * layer : 2 * pieces * (layer + 1)][direction::2]
        if own[0].reverse:
            own = own[::-1]
        parts = [read(lstm, saved) for saved in own]
        for name in QUANTITIES:
            found[name].append(np.concatenate([part[name] for part in parts]))
    return {name: np.stack(arrays) for name, arrays in found.items()}


def read(lstm: LSTM, saved: Saved) -> dict[str, np.ndarray]:
    """Host copies (T, H) of what one call saved for a batch of one sequence."""
    host = lstm.backend.to_numpy
    gates = np.split(host(saved.gates)[:, 0, :], 4, axis=1)
    arrays = host(saved.outputs)[:, 0, :], host(saved.c_after)[:, 0, :], *gates
    return {name: array.astype(lstm.param_dtype) for name, array in zip(QUANTITIES, arrays, strict=True)}


def inputs(model: Model | LSTM, data: np.ndarray) -> tuple[LSTM, Array]:
    """The model's LSTM and what it is given, (T, 1, input_size) on its backend; see `activations`.

    Raises InputError where the model is of another kind or quantised, or data has the wrong shape or values.
    """
    if isinstance(model if isinstance(model, LSTM) else getattr(model, "lstm", None), QuantizedLSTM):
        raise InputError("model has quantised weights, whose gates are not kept; expected the one that it was made of")
    if isinstance(model, LanguageModel):
        tokens = check_host("data", data, ("T",), whole=True)
        if tokens.min() < 0 or tokens.max() >= model.embedding.num_embeddings:
            raise InputError(
                f"data has tokens {tokens.min()}..{tokens.max()}; expected 0..{model.embedding.num_embeddings - 1}"
            )
        ids = model.backend.asarray(tokens.astype(np.int64)[:, None])
        return model.lstm, model.embedding.forward(ids)[0]
    if isinstance(model, Forecaster):
        if model.num_inputs:
            raise InputError(f"model has {model.num_inputs} inputs beside its series; expected one of series alone")
        values = check_host("data", data, ("T", f"S={model.num_series}"))
        return model.lstm, model.features(values.astype(np.float64)[:, None, :])
    if isinstance(model, LSTM):
        x = check_host("data", data, ("T", f"input_size={model.input_size}"))
        return model, model.backend.asarray(x.astype(model.param_dtype)[:, None, :], model.dtype)
    raise InputError(f"model is a {type(model).__name__}; expected a LanguageModel, a Forecaster or an LSTM")


def swap(lstm: LSTM, x: Array) -> Array:
    """x (T, 1, .) in the order that the LSTM takes; one sequence has the same bytes in both."""
    return lstm.backend.xp.reshape(x, (1, x.shape[0], x.shape[2])) if lstm.batch_first else x
