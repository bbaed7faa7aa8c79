"""What all layers share: parameters by name, and the tape that forward hands to backward.

A layer is::

    y, tape = layer.forward(x)
    dx, gradients = layer.backward(tape, dy)

``layer.params`` and ``gradients`` have the same keys and shapes. A layer keeps nothing of a call: what backward needs
is on the tape, and a tape is used once, because backward may overwrite its arrays.
"""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend, choose
from gpu_lstm.backend.count import Count
from gpu_lstm.errors import InputError
from gpu_lstm.layers.checks import check_dtype
from gpu_lstm.layers.described import words
from gpu_lstm.layers.parameters import Parameters
from gpu_lstm.native.kept import Kept, Made
from gpu_lstm.native.kernels import ARITHMETIC

Params = dict[str, Array]
"""Arrays by parameter name."""


class Tape:
    """What a forward call saved for its backward call, used once.

    Parameters
    ----------
    layer : Layer
        Whose call it was; no other layer reads its values.
    values : tuple or None
        None: nothing was kept.
    guarded : mapping of str to array
        Arrays among them that are the caller's, by the names that he knows: they must stay as they are until `spend`.
    """

    def __init__(self, layer: Layer, values: tuple[Any, ...] | None, guarded: Mapping[str, Array] | None = None):
        self._backend, self._mark, self._values, self._spent = layer.backend, layer.mark, values, False
        self._guarded = guarded or {}
        self._watch()

    def _watch(self) -> None:
        self._changed = ops.of(self._backend).watch(list(self._guarded.values())) if self._guarded else None

    def read(self, layer: Layer) -> tuple[Any, ...]:
        """Return the saved values.

        Raises
        ------
        InputError
            The tape was already used by a backward call, is that of another layer, or nothing was kept.
        """
        if self._mark != layer.mark:
            raise InputError(f"tape is that of another layer; expected one that this {type(layer).__name__} has made")
        if self._spent:
            raise InputError("tape was already used by a backward call; run forward again to make another")
        if self._values is None:
            raise InputError("tape is that of a forward call with keep=False; expected one with keep=True")
        return self._values

    def check(self) -> None:
        """Raise InputError where a guarded array was written to."""
        if self._changed is not None and (place := self._changed()) is not None:
            name = list(self._guarded)[place]
            told = "backward needs it as it was (give forward a copy, or change it after backward)"
            raise InputError(f"{name} was changed in place since forward; {told}")

    def spend(self) -> None:
        """Run `check`, and say that backward begins: all that it was given fits."""
        self.check()
        self._values, self._spent, self._guarded, self._changed = None, True, {}, None

    def __getstate__(self) -> dict[str, Any]:
        self.check()
        return {**self.__dict__, "_changed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._watch()

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # backward overwrites what two would share


class Layer:
    """Base of the layers: a backend, a dtype, named parameters.

    Attributes
    ----------
    dtype : str
        Of inputs, outputs and their gradients, and of what products take.
    param_dtype : str
        Of the parameters, their gradients and c: float32 where `dtype` has 16 bits, else the same. So updates too small
        for 16 bits are not lost (P. Micikevicius et al., Mixed Precision Training, ICLR 2018).
    """

    def __init__(self, backend: str | Backend | None, dtype: str):
        self.backend = choose(backend)
        self.dtype = check_dtype(dtype)
        self.param_dtype = ARITHMETIC[self.dtype]
        self.backend.dtype(self.dtype)  # refuses one that it doesn't have
        self.mark = os.urandom(8)  # by which its tapes are known
        self._params = Parameters(self.backend, self.param_dtype)
        self._kept: defaultdict[str, Kept] = defaultdict(Kept)

    def __repr__(self) -> str:
        return words(self)

    @property
    def params(self) -> Parameters:
        """The arrays by name; others may be assigned, one by one or all at once."""
        return self._params

    @params.setter
    def params(self, arrays: Mapping[str, Any]) -> None:
        self._params.replace(arrays)

    def add(self, name: str, values: np.ndarray) -> None:
        """Add the parameter `name` with `values` drawn on the host, so that all backends start equal."""
        self._params.add(name, self.backend.asarray(values.astype(self.param_dtype), self.param_dtype))

    def over(self, params: Mapping[str, Array]) -> Self:
        """Return a twin of this layer that works with `params`, which are not checked."""
        twin = object.__new__(type(self))
        twin.__dict__ |= {**self.__dict__, "_params": dict(params)}
        return twin

    def rounded(self) -> Params:
        """Return the arrays that `params` has at this time, of the matrices that products take copies in `dtype`.

        Here, and nowhere else, are parameters rounded: once for a forward call and the backward call that follows.
        """
        params = dict(self._params)
        if self.dtype != self.param_dtype:
            weights = (name for name in params if name.startswith("weight"))
            params |= {name: self.backend.asarray(params[name], self.dtype) for name in weights}
        return params

    def freeze(self) -> Self:
        """Make the parameters copies that nobody can write to, and return the layer.

        For inference on a CPU with few sequences or one step a call: what is made of the weights for it is kept from
        call to call in any case, but of weights that may have been written to each call must look whether they were.
        What is assigned to a frozen layer's parameters can be written to again.

        Raises
        ------
        InputError
            The parameters are no NumPy arrays.
        """
        self._params.freeze()
        return self

    def kept(self, params: Mapping[str, Array], keep: bool) -> dict[str, Made]:
        """For inference, what kernels make of those of `params` that products take; it may be there from a call before.

        Where backward will follow (`keep`) there is nothing, nor afterwards: weights are about to change.
        """
        if keep:
            self._kept.clear()
        if keep or self.dtype != self.param_dtype:  # of 16 bits, each call has copies of its own
            return {}
        weights = ((name, array) for name, array in params.items() if name.startswith("weight"))
        return {name: partial(self._kept[name].of, array) for name, array in weights}

    def read(self, tape: Any) -> tuple[Any, ...]:
        """Return the values of a tape of this layer; raises InputError as `Tape.read`, and where it is no tape."""
        if not isinstance(tape, Tape):
            raise InputError(f"tape is a {type(tape).__name__}; expected what forward gave for it")
        return tape.read(self)


def check_seed(seed: Any, name: str = "seed") -> tuple[int, ...]:
    """Return a seed as a tuple if it is a whole number of at least 0, or a tuple of some.

    Raises InputError where the seed is another thing.
    """
    parts = seed if isinstance(seed, tuple) and seed else (seed,)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, int | np.integer | Count) or int(part) < 0:
            raise InputError(f"{name} is {seed!r}; expected a whole number of at least 0, or a tuple of them")
    whole: tuple[Any, ...] = tuple(part if isinstance(part, Count) else int(part) for part in parts)
    return whole


def training_seed(seed: Any) -> tuple[int, ...] | None:
    """Check a seed that is given while training, as `check_seed`; None, in evaluation, stays None."""
    return None if seed is None else check_seed(seed)


def any_shape(x: Any) -> tuple[str, ...]:
    """Return a shape for `Backend.require` that allows any size on each of x's axes."""
    rank = getattr(x, "ndim", 0)
    return tuple(f"N{axis}" for axis in range(rank)) if isinstance(rank, int) else ()
