"""What users write, typed: mypy and pyright check it against the package's own types, and a test runs it."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np

import gpu_lstm
from gpu_lstm import LSTM, Adam, Embedding, InputError, Linear, LSTMCell, Model, Pool, compose


def told(*values: object) -> None:
    """Stands for what a user does with results."""


def one_step() -> None:
    """Forward, loss, backward, update, by hand."""
    rng = np.random.default_rng(0)
    lstm, head = LSTM(3, 8, num_layers=2, backend="numpy"), Linear(8, 1, backend="numpy")
    x, target = rng.standard_normal((5, 2, 3), dtype=np.float32), np.zeros((5, 2, 1), np.float32)
    y, (h, c), tape = lstm.forward(x, lengths=[5, 3])
    scores, head_tape = head.forward(y)
    loss, dscores = gpu_lstm.mean_squared(scores, target)
    dy, head_gradients = head.backward(head_tape, dscores)
    dx, (dh0, dc0), gradients = lstm.backward(tape, dy=dy)
    Adam(lstm, learning_rate=1e-3).update(gradients, max_norm=1.0)
    assert_type(lstm.plan.why(), str)
    assert_type(lstm.hidden_size, int)
    told(float(loss), h.shape, c.shape, dx.shape, dh0.shape, dc0.shape, sorted(head_gradients))


def one_cell() -> None:
    """A step a call."""
    cell, table = LSTMCell(4, 6, backend="numpy"), Embedding(10, 4, backend="numpy")
    x, _ = table.forward(np.array([1, 2]))
    told(cell.forward(x)[0])


def trained(folder: Path) -> None:
    """A model of one's own, trained, saved and loaded."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 4, 3)), rng.standard_normal((8, 1))
    model = compose(lstm=LSTM(3, 4), last=Pool("last"), head=Linear(4, 1))
    history = gpu_lstm.fit(model, (x, y), "mse", epochs=1, batch_size=4)
    assert_type(history.scores, list[float])
    gpu_lstm.save(model, folder / "model.safetensors")
    assert_type(gpu_lstm.load(folder / "model.safetensors"), Model)
    try:
        LSTM(0, 4)
    except InputError as error:
        told(error)
