"""What the models share: named layers, their parameters in one dictionary, a description to rebuild from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpu_lstm.backend import Array, Backend, choose
from gpu_lstm.layers import Layer, Params


class Model:
    """Layers by name.

    Attributes
    ----------
    layers : dict of str to Layer
    params : dict
        Every layer's arrays under ``layer.parameter``, the very arrays that the layers use.
    config : dict
        Arguments that make this model again; plain JSON values.
    loss_scale : float
        By which `loss` multiplies all gradients, for half precision; the loss itself stays as it is.
    """

    kind: ClassVar[str]
    loss_scale: float = 1.0

    def __init__(self, layers: Mapping[str, Layer], config: dict[str, Any]):
        self.layers = dict(layers)
        self.params: Params = gather({name: layer.params for name, layer in layers.items()})
        self.config = config

    @property
    def backend(self) -> Backend:
        """Where the arrays live."""
        return next(iter(self.layers.values())).backend

    @property
    def dtype(self) -> str:
        """float32 or float64."""
        return next(iter(self.layers.values())).dtype

    def scaled(self, gradient: Array) -> Array:
        """The loss' gradient times `loss_scale`."""
        return gradient if self.loss_scale == 1 else gradient * self.loss_scale

    def count(self) -> int:
        """Number of parameters."""
        return sum(int(array.size) for array in self.params.values())


def gather(parts: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """One flat dictionary, ``part.name``, of dictionaries."""
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def common(backend: str | Backend | None, dtype: str, seed: int) -> tuple[dict[str, Any], list[int]]:
    """Keyword arguments that all layers of a model take, and different seeds for up to four of them."""
    return {"backend": choose(backend), "dtype": dtype}, [4 * seed + k for k in range(4)]
