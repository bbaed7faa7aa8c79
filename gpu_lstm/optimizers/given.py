"""Optimizers without a backend: it is that of the parameters."""

from __future__ import annotations

from typing import Any, Protocol

from gpu_lstm.backend.finding import leading


class HasParams(Protocol):
    """A layer or a model."""

    @property
    def params(self) -> Any:
        """Arrays by name."""


class Kind(type):
    """The type of optimizers: a backend may stand first among their arguments."""

    def __call__(cls, *given: Any, **named: Any) -> Any:  # noqa: D102
        backend, given = leading(given)
        return super().__call__(*given, **(named if backend is None else {**named, "backend": backend}))
