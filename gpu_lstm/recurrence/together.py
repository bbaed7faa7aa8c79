"""Recurrences that don't depend on each other, as both directions of a layer: at once on tiers that can.

A tier may have `forward_all` and `backward_all`, which take several problems; on others they run one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpu_lstm.backend import Array, Backend
from gpu_lstm.recurrence.contract import Saved, Tier

Problem = tuple[Any, ...]
"""All that the tier's `forward` (`backward`) takes after the backend, in its order."""
Gradients = tuple[Array, Array, Array]
"""dz, dh0, dc0."""


def forward(run: Tier, backend: Backend, problems: Sequence[Problem]) -> list[Saved]:
    """`run.forward` of each problem."""
    at_once = getattr(run, "forward_all", None)
    found: list[Saved] = at_once(backend, problems) if at_once else [run.forward(backend, *each) for each in problems]
    return found


def backward(run: Tier, backend: Backend, problems: Sequence[Problem]) -> list[Gradients]:
    """`run.backward` of each problem."""
    at_once = getattr(run, "backward_all", None)
    found: list[Gradients] = (
        at_once(backend, problems) if at_once else [run.backward(backend, *each) for each in problems]
    )
    return found
