"""How far gradients reach back in time: the norm of what a loss at one step sends to the states before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.inspect.activations import activations, inputs
from gpu_lstm.layers.checks import check_size
from gpu_lstm.losses import softmax_cross_entropy
from gpu_lstm.models import Forecaster, LanguageModel


def gradient_reach(
    model: LanguageModel | Forecaster, data: np.ndarray, reach: int = 64, windows: int = 32
) -> dict[str, np.ndarray]:
    """Norms of dL_t/dh_{t-k} and dL_t/dc_{t-k} for k = 1..K, by backpropagating one step's loss through time.

    L_t is the loss of step t alone: a language model's cross-entropy of the next token, in nats; a forecaster's mean
    squared error of the forecast made at step t, as it is trained on. h_{t-k} and c_{t-k} are the two states that a
    layer hands from step t-k to the next, each taken as an input of all that follows.

    Parameters
    ----------
    model : LanguageModel or Forecaster
    data : array, on the host
        One sequence, tokens (T,) or values (T, S).
    reach : int
        K, steps to go back.
    windows : int
        N, how many steps t to take, evenly spaced; fewer where the sequence has fewer.

    Returns
    -------
    dict of str to array
        ``distance`` (K,), 1..K; ``position`` (N,), the steps t; ``h`` and ``c`` (num_layers, K, N), the norms.

    Raises
    ------
    InputError
        The sequence is too short, or see `activations`.
    """
    reach, windows = check_size("reach", reach), check_size("windows", windows)
    if not isinstance(model, LanguageModel | Forecaster):
        raise InputError(f"model is a {type(model).__name__}; expected a LanguageModel or a Forecaster")
    states = activations(model, data)
    _, x = inputs(model, data)
    ahead = model.horizon if isinstance(model, Forecaster) else 1
    steps = x.shape[0]
    last = steps - 1 - ahead  # the last step whose loss is known
    if last < reach:
        raise InputError(f"data has {steps} steps; expected at least reach + 1 + {ahead} = {reach + 1 + ahead}")
    position = np.unique(np.linspace(reach, last, windows).round().astype(np.int64))
    backend, lstm = model.backend, model.lstm
    state: Any = tuple(
        backend.asarray(np.ascontiguousarray(states[name][:, position - reach, :]), kind)
        for name, kind in (("h", lstm.dtype), ("c", lstm.param_dtype))
    )
    tapes, y = [], None
    for k in range(reach - 1, -1, -1):
        taken = [x[int(t) - k : int(t) - k + 1, ...] for t in position]
        y, state, tape = lstm.forward(backend.xp.concat(taken, axis=1), state)
        tapes.append(tape)
    assert y is not None
    prediction, head_tape = model.head.forward(y)
    if isinstance(model, LanguageModel):
        targets = backend.asarray(np.asarray(data)[position + 1].astype(np.int64)[None, :])
        _, gradient = softmax_cross_entropy(backend, prediction, targets, overwrite=True)
    else:
        target = model.targets(np.asarray(data, dtype=np.float64)[:, None, :])[position, 0, :]
        wanted = backend.asarray(target.astype(model.param_dtype)[None], model.param_dtype)
        _, gradient = model.outcome.loss(backend, prediction, wanted, None)
    # The losses are means over the windows; each window's own loss is wanted.
    dy, _ = model.head.backward(head_tape, gradient * len(position))
    norms: dict[str, list[np.ndarray]] = {"h": [], "c": []}
    dstate = None
    while tapes:
        _, dstate, _ = lstm.backward(tapes.pop(), dy, dstate)
        dy = None
        for name, array in zip("hc", dstate, strict=True):
            norms[name].append(np.linalg.norm(backend.to_numpy(array).astype(np.float64), axis=2))
    found = {name: np.stack(rows, axis=1) for name, rows in norms.items()}
    return {"distance": np.arange(1, reach + 1), "position": position, **found}


def fades(distance: np.ndarray, norms: np.ndarray, share: float = 0.01) -> int | None:
    """The first distance from which on norms (K,) stay below that share of their largest; None if there is none."""
    above = np.flatnonzero(norms >= share * norms.max())
    after = int(above[-1]) + 1 if len(above) else 0
    return int(distance[after]) if after < len(distance) else None
