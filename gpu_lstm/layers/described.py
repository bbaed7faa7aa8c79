"""A layer in words: the arguments that make it again, and what is shown of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

APART = ("backend", "dtype", "tier", "seed", "forget_bias")
"""Arguments that say where and in what a layer computes, or how it starts, but not what it is."""

KEPT_AS: dict[str, Callable[[Any], Any]] = {
    "bidirectional": lambda layer: layer.num_directions == 2,
    "dropout": lambda layer: layer.dropout.p,
    "wide": lambda layer: layer.output_dtype != layer.dtype,
}
"""Arguments that a layer keeps otherwise than under their own name."""


def described(layer: Any) -> dict[str, Any]:
    """Return the arguments that make a layer again, those that differ from their defaults; layers in it as layers."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= layer.options.on()
        elif name not in APART and (name in KEPT_AS or hasattr(layer, name)):
            value = KEPT_AS[name](layer) if name in KEPT_AS else getattr(layer, name)
            if parameter.default is parameter.empty or value != parameter.default:
                found[name] = value
    return found


def call(layer: Any) -> str:
    """Return the call that makes a layer again: ``LSTM(input_size=8, hidden_size=16)``."""
    arguments = ", ".join(f"{name}={_shown(value)}" for name, value in described(layer).items())
    return f"{type(layer).__name__}({arguments})"


def words(layer: Any) -> str:
    """Return what is shown of a layer: `call`, how many numbers it has, and where and in what it computes."""
    count = sum(int(array.size) for array in layer.params.values())
    parts = [f"{count:,} parameters"] if count else []
    parts.append(f"{layer.dtype} on {layer.backend.name}")
    if plan := getattr(layer, "plan", None):
        parts.append(f"tier {plan.tier}")
    return f"{call(layer)}: {', '.join(parts)}"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return call(value) if hasattr(value, "params") else repr(value)
