"""Layers with weights of 8 bits or of bfloat16, for inference: made of trained ones, which stay as they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import Layer, Tape, any_shape
from gpu_lstm.layers.call import State
from gpu_lstm.layers.embedding import Embedding
from gpu_lstm.layers.linear import Linear
from gpu_lstm.layers.lstm import LSTM
from gpu_lstm.native.kept import Kept, Made
from gpu_lstm.recurrence import quantized
from gpu_lstm.recurrence.quantized import Quantized

Kind = TypeVar("Kind", bound=Layer)


def refuse_training(*_: Any, **__: Any) -> NoReturn:
    """Raise InputError: a layer or model with quantised weights is asked to learn."""
    raise InputError("a layer with quantised weights can't be trained; train the one that it was made of")


def _given_to(weight: Quantized, make: Callable[[Quantized], Any]) -> Any:
    return make(weight)


class QuantizedLSTM(LSTM):
    """An LSTM whose weights are `Quantized`; `quantize` makes it. Biases, states and what it gives are float32.

    ``params`` has a `Quantized` for each weight.
    """

    backward = refuse_training

    def _choose_tier(self) -> None:
        self._ready, weights = None, self.params["weight_hh_l0"].weights
        self.plan, self._ops = quantized.make_plan(self.backend, self.tier, weights, self.options.recurrent())
        self._recurrent = self.options.recurrent()
        self._plain = not (self.options.on().keys() - {"bias"} or self.num_directions > 1 or self.batch_first)

    def kept(self, params: Mapping[str, Any], keep: bool) -> dict[str, Made]:
        """Of each weight, which holds what kernels take itself, what gives it to a function of it."""
        return {name: partial(_given_to, weight) for name, weight in params.items() if name.startswith("weight")}

    def forward(  # type: ignore[override]  # there is no seed, as nothing is drawn, and no resets
        self,
        x: Array,
        state: tuple[Array | None, Array | None] | None = None,
        lengths: Sequence[int] | np.ndarray | None = None,
        seed: None = None,
        keep: bool = False,
        *,
        guard: bool = True,
    ) -> tuple[Any, State, Tape]:
        """Run all layers over all steps, as `LSTM.forward` in evaluation; nothing is kept for a backward.

        Raises InputError where `LSTM.forward` refuses an argument, or a seed is given, as in training.
        """
        return super().forward(x, state, lengths, None if seed is None else refuse_training(), keep=False)


class QuantizedLinear(Linear):
    """A linear layer whose weight is `Quantized`; `quantize` makes it."""

    backward = refuse_training

    def forward(self, x: Array, keep: bool = False, *, guard: bool = True) -> tuple[Array, Tape]:
        """Map x (..., input_size) to y (..., output_size); nothing is kept for a backward.

        Raises InputError where x has another last axis or dtype, or belongs to another backend.
        """
        x = self.backend.require("x", x, (*any_shape(x)[:-1], f"input_size={self.input_size}"), self.dtype)
        rows = self.backend.xp.reshape(x, (-1, self.input_size))
        y = quantized.products(self.backend).product(rows, self.params["weight"], self.params["bias"])
        return self.backend.xp.reshape(y, (*x.shape[:-1], self.output_size)), Tape(self, None)


class QuantizedEmbedding(Embedding):
    """An embedding whose table is `Quantized`; `quantize` makes it."""

    backward = refuse_training

    def forward(self, ids: Array, *, guard: bool = True) -> tuple[Array, Tape]:
        """Look up ids, integers of any shape (...), as y (..., embedding_dim).

        Raises InputError where ids aren't integers, are outside 0..num_embeddings-1, or belong to another backend.
        """
        table: Quantized = self.params["weight"]
        ids = self.backend.require("ids", ids, any_shape(ids))
        if not self.backend.xp.isdtype(ids.dtype, "integral"):
            raise InputError(f"ids has dtype {ids.dtype}; expected integers")
        shape, take = tuple(ids.shape), ops.Arrays(self.backend).take_rows
        parts = [table.values] if table.scales is None else [table.values, table.scales[:, None]]
        ids = self.backend.xp.reshape(ids, (-1,))
        rows = [take(part, ids, "ids", "num_embeddings") for part in parts]
        y = Quantized(self.backend, rows[0], rows[1][:, 0] if rows[1:] else None).wide()
        return self.backend.xp.reshape(y, (*shape, self.embedding_dim)), Tape(self, None)


KINDS: dict[type[Layer], type[Layer]] = {LSTM: QuantizedLSTM, Linear: QuantizedLinear, Embedding: QuantizedEmbedding}


def quantize(layer: Kind, weights: str = "int8") -> Kind:
    """Return a twin of a layer, for inference alone, whose matrices have weights of few bits.

    Parameters
    ----------
    layer : LSTM, Linear or Embedding
        In float32.
    weights : {"int8", "bfloat16"}

    Raises
    ------
    InputError
        The layer is another one or of another dtype, has an option that changes the recurrence, or a weight that is not
        finite or too wide (see `gpu_lstm.recurrence.quantized`); `weights` is neither.
    """
    if type(layer) not in KINDS:
        raise InputError(f"layer is a {type(layer).__name__}; expected an LSTM, a Linear or an Embedding")
    if layer.dtype != "float32":
        raise InputError(f"layer has dtype {layer.dtype}; expected float32")
    twin: Any = object.__new__(KINDS[type(layer)])
    params = {
        name: Quantized.of(layer.backend, array, weights) if name.startswith("weight") else array
        for name, array in layer.params.items()
    }
    twin.__dict__ |= {**layer.__dict__, "_params": params, "_kept": defaultdict(Kept)}
    if isinstance(twin, QuantizedLSTM):
        twin._choose_tier()
    return twin  # type: ignore[no-any-return]


def stored(layer: Layer) -> dict[str, Array]:
    """Return the arrays of a quantised layer: of a weight its values, and as ``weight_scale`` its rows' scales."""
    found: dict[str, Array] = {}
    for name, array in layer.params.items():
        quantised = isinstance(array, Quantized)
        found[name] = array.values if quantised else array
        if quantised and array.scales is not None:
            found[f"{name}_scale"] = array.scales
    return found
