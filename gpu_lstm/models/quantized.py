"""Models with weights of 8 bits or of bfloat16, for inference: to sample, evaluate, forecast and predict."""

from __future__ import annotations

from typing import TypeVar

from gpu_lstm.backend import Array
from gpu_lstm.layers import Layer, quantized
from gpu_lstm.models.base import Model, gather

Kind = TypeVar("Kind", bound=Layer | Model)


class Stored(dict):  # type: ignore[type-arg]
    """The arrays of a quantised model, as a checkpoint holds them; others can't be put in their place."""

    __setitem__ = __delitem__ = __ior__ = update = replace = quantized.refuse_training

    def __reduce__(self) -> tuple[type, tuple[dict[str, Array]]]:
        return Stored, (dict(self),)


def quantize(what: Kind, weights: str = "int8") -> Kind:
    """Return a twin of a layer or model, for inference alone, whose matrices have weights of few bits.

    ``int8`` takes a quarter of the memory, ``bfloat16`` half of it. How they compute is told in
    `gpu_lstm.recurrence.quantized`.

    Parameters
    ----------
    what : gpu_lstm.LSTM, Linear, Embedding, LanguageModel, Forecaster, Classifier or Regressor
        In float32. It stays as it is; biases are shared.
    weights : {"int8", "bfloat16"}

    Raises
    ------
    InputError
        `what` is something else, has another dtype or an option that changes the recurrence, or a weight that is not
        finite or too wide; `weights` is neither.

    Examples
    --------
    >>> from gpu_lstm.models import quantize
    >>> lstm = LSTM(8, 16, backend="numpy")
    >>> x = np.ones((20, 3, 8), dtype="float32")
    >>> exact, small = lstm.forward(x, keep=False)[0], quantize(lstm).forward(x)[0]
    >>> bool(abs(exact - small).max() < 0.01)
    True
    """
    if not isinstance(what, Model):
        return quantized.quantize(what, weights)
    twin = object.__new__(type(what))
    layers = {name: quantized.quantize(layer, weights) for name, layer in what.layers.items()}
    params = Stored(gather({name: quantized.stored(layer) for name, layer in layers.items()}))
    parts = {**layers, "layers": layers, "_params": params, "weights": weights, "loss": quantized.refuse_training}
    twin.__dict__ |= {**what.__dict__, **parts}
    return twin
