"""Optimizers without a backend: it is that of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from gpu_lstm.backend.finding import leading
from gpu_lstm.errors import InputError


class HasParams(Protocol):
    """A layer or a model."""

    @property
    def params(self) -> Any:
        """Arrays by name."""


def by_name(params: Mapping[str, Any] | HasParams) -> Mapping[str, Any]:
    """Return arrays by name, given as they are or as a layer's or model's; raises InputError where there are none."""
    found: Any = params if isinstance(params, Mapping) else getattr(params, "params", None)
    if not isinstance(found, Mapping):
        raise InputError(f"params is a {type(params).__name__}; expected arrays by name, a layer or a model")
    return found


class Kind(type):
    """The type of optimizers: a backend may stand first among their arguments."""

    def __call__(cls, *given: Any, **named: Any) -> Any:  # noqa: D102
        backend, given = leading(given)
        return super().__call__(*given, **(named if backend is None else {**named, "backend": backend}))
