"""LSTM layers of different sizes, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError
from gpu_lstm.layers.arguments import check_state
from gpu_lstm.layers.base import Layer, Params, Tape, training_seed
from gpu_lstm.layers.call import State
from gpu_lstm.layers.checks import check_probability
from gpu_lstm.layers.dropout import Dropout
from gpu_lstm.layers.lstm import LSTM
from gpu_lstm.layers.parameters import Parameters
from gpu_lstm.layers.reversed import Reversed

States = list[State]
"""A state for each layer, from bottom to top."""


class Stack(Layer):
    """LSTMs one after the other, each with a size, options and directions of its own.

    Parameters
    ----------
    layers : list of LSTM or Reversed, from bottom to top
        Each takes what the one below gives. Their parameters are this layer's, the very arrays. Only the last may have
        the option `cells`.
    dropout : float
        Probability of dropping an element between two of them while training.

    Attributes
    ----------
    layers : tuple of LSTM or Reversed
    input_size, output_size, num_directions : int
        Of x the width; of y the width is ``output_size * num_directions``, as of the last layer.
    params : dict
        Those of layer k under ``k.name``, such as ``0.weight_ih_l0``: PyTorch's names in a ``ModuleList`` of LSTMs.

    Raises
    ------
    InputError
        `layers` is empty, holds something else or a layer twice, or two layers don't go together in width, backend,
        dtype or `batch_first`.

    Examples
    --------
    >>> stack = Stack([LSTM(8, 32, bidirectional=True, backend="numpy"), LSTM(64, 16, backend="numpy")])
    >>> y, states, tape = stack.forward(np.ones((20, 3, 8), dtype="float32"))
    >>> y.shape, len(states), sorted(stack.params)[0]
    ((20, 3, 16), 2, '0.bias_l0')
    """

    def __init__(self, layers: Sequence[LSTM | Reversed], dropout: float = 0.0):
        if not isinstance(layers, list | tuple) or not layers:
            raise InputError(f"layers is {layers!r}; expected a list of LSTM layers, one at least")
        for place, layer in enumerate(layers):
            if not isinstance(layer, LSTM | Reversed):
                raise InputError(f"layers[{place}] is a {type(layer).__name__}; expected an LSTM")
        self.layers = tuple(layers)
        self._lstms = [_lstm(layer) for layer in layers]
        first, last = self._lstms[0], self._lstms[-1]
        for place, (below, lstm) in enumerate(zip(self._lstms, self._lstms[1:], strict=False), 1):
            width = below.output_size * below.num_directions
            for name, found, expected in (
                ("input_size", lstm.input_size, width),
                ("dtype", lstm.dtype, first.dtype),
                ("backend", lstm.backend.name, first.backend.name),
                ("batch_first", lstm.batch_first, first.batch_first),
            ):
                if found != expected:
                    raise InputError(f"layers[{place}] has {name}={found}; expected {expected}, as the one below gives")
            if below.options.cells:
                raise InputError(f"layers[{place - 1}] has cells=True; expected that of the last layer alone")
            if lstm in self._lstms[:place]:
                raise InputError(f"layers[{place}] is there twice; expected layers with parameters of their own")
        super().__init__(first.backend, first.dtype)
        self.dropout = Dropout(check_probability("dropout", dropout), backend=self.backend, dtype=self.dtype)
        self.input_size, self.output_size = first.input_size, last.output_size
        self.num_directions, self.batch_first = last.num_directions, first.batch_first
        self._params = Parameters.joined({str(place): layer.params for place, layer in enumerate(layers)})

    def forward(
        self,
        x: Array,
        state: Sequence[Any] | None = None,
        lengths: Sequence[int] | np.ndarray | None = None,
        seed: int | tuple[int, ...] | None = None,
        keep: bool = True,
        resets: np.ndarray | Array | None = None,
        *,
        guard: bool = True,
    ) -> tuple[Any, States, Tape]:
        """Run all layers, as `LSTM.forward`, with a list of states, one a layer; None, the list or an entry, is zero.

        Raises
        ------
        InputError
            `LSTM.forward` refuses an argument; or `resets` are given, and a layer reads backwards, which takes none.
        """
        states, seed = self._check_states("state", state), training_seed(seed)
        more: dict[str, Any] = {"guard": guard} if resets is None else {"guard": guard, "resets": resets}
        if resets is not None and any(isinstance(layer, Reversed) for layer in self.layers):
            raise InputError("resets is given; expected None, as a layer is Reversed")
        tapes: list[tuple[Tape | None, Tape]] = []
        after: States = []
        for place, (layer, first) in enumerate(zip(self.layers, states, strict=True)):
            dropped = None
            if place > 0:
                x, dropped = self.dropout.forward(x, None if seed is None else (*seed, place))
            x, last, tape = layer.forward(x, first, lengths, None if seed is None else (*seed, place), keep, **more)
            after.append(last)
            tapes.append((dropped, tape))
        return x, after, Tape(self, (tapes, after[0][0].shape[1]) if keep else None)

    def backward(self, tape: Tape, dy: Any = None, dstate: Sequence[Any] | None = None) -> tuple[Array, States, Params]:
        """Backpropagate through all layers, as `LSTM.backward`, with lists of the states' gradients, one a layer.

        Returns
        -------
        dx : like x
        dstate0 : list of (dh0, dc0)
        gradients : dict
            Of every parameter, by name.
        """
        tapes, batch = self.read(tape)
        arriving = [
            check_state(lstm.sizes, "dstate", one, batch)
            for lstm, one in zip(self._lstms, self._check_states("dstate", dstate), strict=True)
        ]
        for _, inner in tapes:
            inner.check()
        before: States = []
        found: list[Params] = []
        for layer, (dropped, inner), last in zip(self.layers[::-1], tapes[::-1], arriving[::-1], strict=True):
            dy, first, gradients = layer.backward(inner, dy, last)
            if dropped is not None:
                dy, _ = self.dropout.backward(dropped, dy)
            before.insert(0, first)
            found.insert(0, gradients)
        tape.spend()
        return dy, before, {f"{k}.{name}": value for k, part in enumerate(found) for name, value in part.items()}

    def zero_state(self, batch: int) -> States:
        """Return a state of zeros for `batch` sequences."""
        return [lstm.zero_state(batch) for lstm in self._lstms]

    def _check_states(self, name: str, states: Any) -> Sequence[Any]:
        if states is None:
            return [None] * len(self.layers)
        if not isinstance(states, list | tuple) or len(states) != len(self.layers):
            many = f" of {len(states)}" if isinstance(states, list | tuple) else ""
            raise InputError(f"{name} is a {type(states).__name__}{many}; expected a list of {len(self.layers)} pairs")
        return states


def _lstm(layer: LSTM | Reversed) -> LSTM:
    return layer.lstm if isinstance(layer, Reversed) else layer
