"""A tape with other values in the places of its own: for who keeps a tape's arrays in a way of his own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from gpu_lstm.layers.base import Layer, Tape


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return what `change` gives for a value, as a tape; where that is the value itself, what it makes of its parts."""
    if (other := change(value)) is not value:
        return other
    if isinstance(value, tuple | list):
        return type(value)([changed(one, change) for one in value])
    if isinstance(value, dict):
        return {name: changed(one, change) for name, one in value.items()}
    if isinstance(value, Tape):
        twin = object.__new__(type(value))
        twin.__dict__ |= {**value.__dict__, "_values": changed(value._values, change)}
        return twin
    if isinstance(value, Layer):
        return value.over(changed(dict(value.params), change))
    if isinstance(value, partial):
        return partial(value.func, *changed(value.args, change))
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(changed(getattr(value, field.name), change) for field in fields(value)))
    return value
