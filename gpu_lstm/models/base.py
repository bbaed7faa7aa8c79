"""What the models share: named layers, their parameters in one dictionary, a description to rebuild from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

import numpy as np

from gpu_lstm.backend import Array, Backend, choose
from gpu_lstm.errors import InputError
from gpu_lstm.layers import LSTM, Layer, Parameters
from gpu_lstm.layers.base import check_seed
from gpu_lstm.layers.options import for_model


class Where(TypedDict, total=False):
    """Keyword arguments that every model takes, as of its layers: where and how it computes, and how it starts.

    Where they are not given: None, ``"float32"``, ``"auto"``, False and 0.
    """

    backend: str | Backend | None
    dtype: str
    tier: str
    recompute: bool
    seed: int | tuple[int, ...]


class Model:
    """Layers by name.

    Parameters
    ----------
    layers : dict of str to Layer
        An LSTM among them, as ``lstm``.
    config : dict
        Arguments that make this model again; an empty ``lstm`` is left out.

    Attributes
    ----------
    layers : dict of str to Layer
    params : dict
        Every layer's arrays under ``layer.parameter``, those that the layers use: what is assigned here, they use from
        then on, and the other way round.
    config : dict
        Arguments that make this model again; plain JSON values.
    loss_scale : float
        By which `loss` multiplies all gradients, for half precision; the loss itself stays as it is.
    """

    kind: ClassVar[str]
    lstm: LSTM
    loss_scale: float = 1.0

    def __init__(self, layers: Mapping[str, Layer], config: dict[str, Any]):
        self.layers = dict(layers)
        self._params = Parameters.joined({name: layer.params for name, layer in layers.items()})
        self.config = {name: value for name, value in config.items() if name != "lstm" or value}

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

    def count(self) -> int:
        """Number of parameters."""
        return sum(int(array.size) for array in self.params.values())


def check_host(name: str, value: Any, shape: tuple[int | str, ...], whole: bool = False) -> np.ndarray:
    """A host array of (whole) numbers and of that shape; ``"T"`` stands for any size, ``"S=3"`` for 3.

    Raises
    ------
    InputError
        `value` has another shape, or holds something else than (whole) numbers.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{name} has no regular shape") from None
    if array.dtype.kind not in ("iu" if whole else "iuf") or isinstance(value, np.ma.MaskedArray):
        wanted = "whole numbers" if whole else "numbers"
        raise InputError(f"{name} is a {type(value).__name__} of dtype {array.dtype}; expected an array of {wanted}")
    sizes = [int(str(part).split("=")[-1]) if str(part)[-1].isdigit() else None for part in shape]
    fits = len(sizes) == array.ndim and all(w is None or w == s for w, s in zip(sizes, array.shape, strict=True))
    if not fits or 0 in array.shape:
        raise InputError(f"{name} has shape {array.shape}; expected ({', '.join(map(str, shape))}), none of them 0")
    return array


def gather(parts: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """One flat dictionary, ``part.name``, of dictionaries."""
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def arguments(
    lstm: Mapping[str, Any] | None,
    forget_bias: float = 1.0,
    *,
    backend: str | Backend | None = None,
    dtype: str = "float32",
    tier: str = "auto",
    recompute: bool = False,
    seed: int | tuple[int, ...] = 0,
) -> tuple[dict[str, Any], dict[str, Any], list[tuple[int, ...]]]:
    """Keyword arguments of every layer of a model, those of its LSTM, and different seeds for up to four layers.

    `lstm` has options of the LSTM family by name; the rest is `Where`.
    """
    *first, last = check_seed(seed)
    of_all = {"backend": choose(backend), "dtype": dtype}
    of_lstm = {**of_all, **for_model(lstm, forget_bias), "tier": tier, "recompute": recompute}
    return of_all, of_lstm, [(*first, 4 * last + k) for k in range(4)]


def numbers(values: Sequence[float]) -> list[float]:
    """Numbers as a checkpoint's description keeps them."""
    return [float(value) for value in values]
