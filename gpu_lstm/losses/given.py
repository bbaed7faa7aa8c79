"""Losses without a backend: it is that of the arrays, and what is harmless to convert is converted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, overload

from gpu_lstm.backend import Array, Backend
from gpu_lstm.backend.finding import backend_of, leading
from gpu_lstm.layers.assigned import fitting, whole

More = ParamSpec("More")
Both = tuple[Array, Array]
"""The mean loss, and its gradient with respect to the prediction."""


class Loss(Generic[More]):
    """A loss of a prediction and a target: ``loss(prediction, target)`` gives its mean value and its gradient.

    The backend is that of the arrays. Lists are taken, and numbers in another dtype than the prediction's: a prediction
    of whole numbers becomes float64, a target of numbers gets the prediction's dtype. With a backend as the first
    argument nothing is converted.

    Parameters
    ----------
    function : callable
        Takes a backend, prediction and target, and more.
    of_classes : bool
        Targets are whole numbers, which stay some.
    """

    def __init__(
        self,
        function: Callable[Concatenate[Backend, Array, Array, More], Both],
        of_classes: bool = False,
    ):
        self.function: Callable[..., Both] = function
        self.of_classes = of_classes
        functools.update_wrapper(self, function)

    @overload
    def __call__(
        self, backend: Backend, prediction: Array, target: Array, /, *more: More.args, **named: More.kwargs
    ) -> Both: ...

    @overload
    def __call__(self, prediction: Array, target: Array, /, *more: More.args, **named: More.kwargs) -> Both: ...

    def __call__(self, *given: Any, **named: Any) -> Both:  # type: ignore[misc]  # noqa: D102
        backend, given = leading(given)
        if backend is None and "backend" not in named:
            return self._of_arrays(*given, **named)
        return self.function(*([] if backend is None else [backend]), *given, **named)

    def _of_arrays(self, prediction: Any, target: Any, *more: Any, **named: Any) -> Both:
        backend = backend_of(prediction, target)
        kind = getattr(prediction, "dtype", None)
        dtype = str(getattr(kind, "name", kind)).rpartition(".")[2]
        dtype = dtype if dtype.startswith(("float", "bfloat")) else "float64"
        prediction = fitting(backend, dtype, "prediction", prediction)
        target = whole(backend, "target", target) if self.of_classes else fitting(backend, dtype, "target", target)
        return self.function(backend, prediction, target, *more, **named)

    def __repr__(self) -> str:
        return f"gpu_lstm.losses.{self.function.__name__}"
