"""An LSTM that reads each sequence from its last step to its first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import Layer, Params, Tape
from gpu_lstm.layers.call import State
from gpu_lstm.layers.lstm import LSTM
from gpu_lstm.layers.ragged import check_lengths


class Reversed(Layer):
    """An LSTM of one direction, run backwards in time: ONNX's ``direction="reverse"``, Keras's ``go_backwards``.

    Parameters
    ----------
    lstm : LSTM
        Of one direction. Its parameters are this layer's, the very arrays.

    Attributes
    ----------
    lstm : LSTM
    params : dict
        Those of `lstm`.

    Raises
    ------
    InputError
        The LSTM has two directions, or the option `cells`.

    Examples
    --------
    >>> layer = Reversed(LSTM(8, 16, backend="numpy"))
    >>> y, (h, c), tape = layer.forward(np.ones((20, 3, 8), dtype="float32"))
    >>> bool((y[0] == h[0]).all())  # it ends at the first step
    True
    """

    def __init__(self, lstm: LSTM):
        if not isinstance(lstm, LSTM):
            raise InputError(f"lstm is a {type(lstm).__name__}; expected an LSTM")
        if lstm.num_directions != 1:
            raise InputError("lstm is bidirectional; expected one of one direction, as it already reads backwards too")
        if lstm.options.cells:
            raise InputError("lstm has cells=True; expected one that gives h only")
        super().__init__(lstm.backend, lstm.dtype)
        self.lstm = lstm
        self._params = lstm.params

    def forward(
        self,
        x: Array,
        state: tuple[Array | None, Array | None] | None = None,
        lengths: Sequence[int] | np.ndarray | None = None,
        seed: int | tuple[int, ...] | None = None,
        keep: bool = True,
        *,
        guard: bool = True,
    ) -> tuple[Array, State, Tape]:
        """Run as `LSTM.forward`, with y[t] made from steps t and later; the final state is that of step 0."""
        order = ("B", "T") if self.lstm.batch_first else ("T", "B")
        x = self.backend.require("x", x, (*order, f"input_size={self.lstm.input_size}"), self.dtype)
        rows = self._rows(x.shape, lengths)
        y, state, tape = self.lstm.forward(self._take(x, rows), state, lengths, seed, keep, guard=False)
        return (
            self._take(y, rows),
            state,
            Tape(self, (tape, rows, x.shape) if keep else None, self.lstm.needed() if guard and keep else {}),
        )

    def backward(
        self, tape: Tape, dy: Array | None = None, dstate: tuple[Array | None, Array | None] | None = None
    ) -> tuple[Array, State, Params]:
        """Backpropagate as `LSTM.backward`."""
        inner, rows, shape = self.read(tape)
        if dy is not None:
            dy = self.backend.require("dy", dy, (*shape[:2], f"output_size={self.lstm.output_size}"), self.dtype)
            dy = self._take(dy, rows)
        tape.check()
        dx, dstate0, gradients = self.lstm.backward(inner, dy, dstate)
        return self._take(dx, rows), dstate0, gradients

    def _rows(self, shape: tuple[int, ...], lengths: Any) -> Array:
        """Return where each row (t, b) comes from: the sequence's steps in reverse, its padding in place."""
        num_steps, batch = (shape[1], shape[0]) if self.lstm.batch_first else shape[:2]
        given = lengths is not None and 0 not in shape
        mask = check_lengths(self.backend, lengths, num_steps, batch) if given else None
        ends = np.full(batch, num_steps) if mask is None else mask.lengths
        t, b = np.arange(num_steps)[:, None], np.arange(batch)
        source = np.where(t < ends, ends - 1 - t, t)
        rows = (b * num_steps + source).T if self.lstm.batch_first else source * batch + b
        return self.backend.asarray(rows.reshape(-1), "int64")

    def _take(self, x: Array, rows: Array) -> Array:
        xp = self.backend.xp
        flat = xp.reshape(x, (-1, x.shape[2]))
        return xp.reshape(ops.of(self.backend).take_rows(flat, rows, checked=True), x.shape)
