"""What several test files share."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_lstm.backend import Backend, NumpyBackend
from gpu_lstm.checks import central_differences, relative_error
from gpu_lstm.layers import LSTM
from gpu_lstm.recurrence import Arriving, Problem

__all__ = [
    "NUMPY",
    "STRICT",
    "OnDevice",
    "StrictBackend",
    "central_differences",
    "loss_and_gradients",
    "one_backward",
    "one_forward",
    "problem",
    "relative_error",
]

NUMPY = NumpyBackend()


class StrictBackend(Backend):
    """array-api-strict: refuses whatever the array API standard doesn't promise, as a stand-in for other libraries."""

    name = "strict"

    @property
    def xp(self):  # imported where it is used: a machine that runs the GPU tests need not have it
        return pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")


STRICT = StrictBackend()


class OnDevice:
    """An array of a library that this machine doesn't have, as far as anyone may look at it from the host."""

    def __init__(self, number, kind=2):
        self.number, self.kind = number, kind

    def __dlpack_device__(self):
        return self.kind, self.number


def problem(lstm: LSTM, steps: int, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs, nonzero states h0 != c0 and incoming gradients of all outputs, time-major, on the host."""
    rng = np.random.default_rng(seed)
    state = (lstm.num_layers * lstm.num_directions, batch, lstm.hidden_size)
    outputs = (steps, batch, lstm.hidden_size * lstm.num_directions)
    shapes = {"x": (steps, batch, lstm.input_size), "h0": state, "c0": state, "dy": outputs, "dh": state, "dc": state}
    return {name: rng.standard_normal(shape).astype(lstm.dtype) for name, shape in shapes.items()}


def loss_and_gradients(lstm, data, lengths=None, arrives=("dy", "dh", "dc"), seed=None):
    """Sum of outputs times incoming gradients, and all gradients of that sum, on the host.

    Only the incoming gradients named in `arrives` are sent; the others are None.
    """
    backend = lstm.backend
    on = {name: backend.asarray(array, lstm.dtype) for name, array in data.items()}
    y, (h, c), tape = lstm.forward(on["x"], (on["h0"], on["c0"]), lengths, seed)
    outputs = {"dy": y, "dh": h, "dc": c}
    loss = sum(float(np.sum(backend.to_numpy(outputs[k]) * data[k])) for k in arrives)
    sent = {k: on[k] if k in arrives else None for k in outputs}
    dx, (dh0, dc0), gradients = lstm.backward(tape, sent["dy"], (sent["dh"], sent["dc"]))
    gradients = {"x": dx, "h0": dh0, "c0": dc0} | gradients
    return loss, {name: backend.to_numpy(array) for name, array in gradients.items()}


def one_forward(tier, backend, *problem, **named):
    """One problem through a tier, or the tier of a module."""
    return getattr(tier, "TIER", tier).forward(backend, [Problem(*problem, **named)])[0]


def one_backward(tier, backend, *arriving, **named):
    """The gradients of one recurrence that has run."""
    return getattr(tier, "TIER", tier).backward(backend, [Arriving(*arriving, **named)])[0]
