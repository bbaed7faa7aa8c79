"""What the models share: named layers, their parameters in one dictionary, a description to rebuild from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.layers import LSTM, Layer, Parameters
from gpu_lstm.models.arguments import plain


class Model:
    """Layers by name.

    Parameters
    ----------
    layers : dict of str to Layer
        An LSTM among them, as ``lstm``.
    config : dict
        Arguments that make this model again, plain JSON values; an empty ``lstm`` is left out.

    Attributes
    ----------
    params : dict
        Every layer's arrays under ``layer.parameter``, those that the layers use: what is assigned here, they use from
        then on, and the other way round.
    """

    kind: ClassVar[str]
    lstm: LSTM
    loss_scale: float = 1.0  # by which `loss` multiplies all gradients, for half precision; the loss stays as it is
    about: Mapping[str, Any] = MappingProxyType({})  # what its checkpoint says of it, where it comes from one
    weights: str = ""  # "int8" or "bfloat16" where `gpu_lstm.models.quantize` made it

    def __init__(self, layers: Mapping[str, Layer], config: dict[str, Any]):
        self.layers = dict(layers)
        self._params = Parameters.joined({name: layer.params for name, layer in layers.items()})
        self.config = {name: plain(value) for name, value in config.items() if name != "lstm" or value}

    def __repr__(self) -> str:
        lines = [f"  {name}: {layer!r}" for name, layer in self.layers.items()]
        return "\n".join([f"{type(self).__name__}: {self.count():,} parameters", *lines])

    @property
    def params(self) -> Parameters:  # noqa: D102
        return self._params

    @params.setter
    def params(self, arrays: Mapping[str, Any]) -> None:
        self._params.replace(arrays)

    @property
    def backend(self) -> Backend:
        """Where the arrays live."""
        return self.lstm.backend

    @property
    def dtype(self) -> str:
        """Of the layers' inputs and outputs; losses and their gradients have `param_dtype`."""
        return self.lstm.dtype

    @property
    def param_dtype(self) -> str:
        """float32 or float64."""
        return self.lstm.param_dtype

    @property
    def on_host(self) -> bool:
        """Whether the parameters are NumPy's arrays, which compiled code of the host can read."""
        return all(isinstance(array, np.ndarray) for array in self.params.values())

    def scaled(self, gradient: Array) -> Array:
        """The loss' gradient times `loss_scale`."""
        return gradient if self.loss_scale == 1 else gradient * self.loss_scale

    def freeze(self) -> Self:
        """Make the parameters copies that nobody can write to, see `gpu_lstm.layers.Layer.freeze`; return the model."""
        self._params.freeze()
        return self

    def count(self) -> int:
        """Number of parameters."""
        return sum(int(array.size) for array in self.params.values())


def gather(parts: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """One flat dictionary, ``part.name``, of dictionaries."""
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}
