"""What every optimizer is: parameters that are updated in place, the state of each, and the numbers of an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend
from gpu_lstm.backend.exchange import foreign
from gpu_lstm.backend.finding import backend_of
from gpu_lstm.errors import InputError
from gpu_lstm.layers.checks import check_positive
from gpu_lstm.optimizers.given import HasParams, Kind, by_name

Params = Mapping[str, Array]
Move = TypeVar("Move", bound=Callable[..., None])


def compiled_as(rule: str) -> Callable[[Move], Move]:
    """Mark a `move` that compiled code does, too, under the name `rule`."""

    def mark(move: Move) -> Move:
        move.rule = rule  # type: ignore[attr-defined]
        return move

    return mark


class Optimizer(metaclass=Kind):
    """Base: the learning rate and the per-parameter state, zero at the start.

    A subclass has `numbers` and `move`, and names in `slots` the arrays of state that it needs for each parameter. Its
    own `move` runs on any backend.

    Parameters
    ----------
    params : mapping of str to array, or a layer or model with such `params`
        Updated in place by `update`.
    learning_rate : float
        Multiplied by the factor given to `update`, it is the `rate` of that update.
    backend : Backend, optional
        Where the parameters live; found out if not given.

    Raises
    ------
    InputError
        A parameter is no array of the backend or can't be written, two are the same array, or the learning rate is not
        above 0.
    """

    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Params | HasParams, learning_rate: float, *, backend: Backend | None = None):
        learning_rate = check_positive("learning_rate", learning_rate)
        params = by_name(params)
        self.backend = backend = backend or backend_of(*params.values())
        self.params = params
        self.learning_rate = self.rate = learning_rate
        self.updates = 0
        names: dict[int, str] = {}
        for name, param in params.items():
            if param not in backend:
                raise foreign(f"parameter {name}", param, backend.name)
            if names.setdefault(id(param), name) != name:
                raise InputError(f"parameters {names[id(param)]} and {name} are the same array; expected it once")
            check_writeable(f"parameter {name}", param)
        self._kinds = {name: (param.shape, param.dtype) for name, param in params.items()}
        self.state: dict[str, Array] = {
            f"{slot}.{name}": backend.xp.zeros_like(p) for slot in self.slots for name, p in params.items()
        }

    def update(
        self, gradients: Params, factor: float = 1.0, max_norm: float | None = None, loss: Array | None = None,
        loss_scale: float = 1.0,
    ) -> Array | None:  # fmt: skip
        """Move every parameter by its gradient.

        Parameters
        ----------
        gradients : mapping of str to array
            May be overwritten.
        factor : float
            Scales the learning rate (see schedules).
        max_norm : float, optional
            Gradients are scaled so that their joint norm is at most this.
        loss : array of shape (), optional
            Where it or the norm is not finite, no parameter moves.
        loss_scale : float
            That of the model, a power of two: the gradients are divided by it before all else.

        Returns
        -------
        norm : array of shape (), or None
            Of the gradients as they are without any scale; None where `max_norm` is.

        Raises
        ------
        InputError
            The gradients have not the parameters' names; an array has another shape or dtype than the parameter had at
            first, or is to be written and can't be; or max_norm is not above 0. Nothing moved.
        """
        for what, given in (("gradients", gradients), ("params", self.params)):
            if given.keys() != self._kinds.keys():
                odd = sorted(given.keys() ^ self._kinds.keys())
                raise InputError(f"{what} has not the parameters' names; these are on one side only: {odd}")
        if not (math.isfinite(factor) and 0 < loss_scale < math.inf):
            raise InputError(f"factor is {factor!r}, loss_scale {loss_scale!r}; expected numbers, the second above 0")
        if max_norm is not None:
            check_max_norm(max_norm)
        taken = []
        for name, param in self.params.items():
            self._check(f"parameter {name}", param, *self._kinds[name])
            for slot in self.slots:
                self._check(f"state {slot}.{name}", self.state[f"{slot}.{name}"], *self._kinds[name])
            gradient = gradients[name]
            if gradient not in self.backend:
                gradient = self.backend.require(f"gradient of {name}", gradient)
                if not getattr(getattr(gradient, "flags", None), "writeable", True):
                    gradient = self.backend.xp.asarray(gradient, copy=True)
            fits = gradient.shape == param.shape and gradient.dtype == param.dtype
            if not (fits or ops.of(self.backend).checks_gradients):
                self.backend.require(f"gradient of {name}", gradient, tuple(param.shape), str(param.dtype))
            taken.append(gradient)
        self.advance(factor)
        params = list(self.params.values())
        states = [[self.state[f"{slot}.{name}"] for slot in self.slots] for name in self.params]
        return ops.of(self.backend).update(self, params, taken, states, max_norm, loss, loss_scale)

    def _check(self, name: str, array: Array, shape: tuple[int, ...], dtype: Any) -> None:
        """Refuse an array to write that is not of that kind."""
        if array not in self.backend:
            raise foreign(name, array, self.backend.name)
        if not (array.shape == shape and array.dtype == dtype):
            self.backend.require(name, array, tuple(shape), str(dtype))
        check_writeable(name, array)

    @property
    def rule(self) -> str:
        """Name of the compiled form of `move`; empty where it has none, as one that a subclass overrides."""
        return str(getattr(self.move, "rule", ""))

    def advance(self, factor: float = 1.0) -> None:
        """Begin an update: one more, at the learning rate times `factor`. `update` does it."""
        self.updates += 1
        self.rate = self.learning_rate * factor

    def numbers(self) -> tuple[float, ...]:
        """Return the numbers that `move` takes at this update."""
        raise NotImplementedError

    def move(self, param: Array, gradient: Array, state: Sequence[Array], numbers: Sequence[float]) -> None:
        """Update `param` and its state in place, by its `gradient` and what `numbers` gave."""
        raise NotImplementedError


def check_writeable(name: str, array: Array) -> None:
    """Refuse an array that can't be written to."""
    if not getattr(getattr(array, "flags", None), "writeable", True):
        raise InputError(f"{name} is read-only; expected an array to write to")


def check_max_norm(max_norm: float) -> None:
    """Refuse a largest norm that is not above 0."""
    if not max_norm > 0:
        raise InputError(f"max_norm is {max_norm!r}; expected a number above 0")
