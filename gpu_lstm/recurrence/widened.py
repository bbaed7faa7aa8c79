"""A tier of float32 for arrays of 16 bits: they are widened before it and its results rounded after it.

So 16-bit layers run where no kernel stores in 16 bits. h is rounded once it has gone through all steps of a call, not
between them as in the CUDA kernels, nor between segments; c, its gradient and the gradient of the initial state are
float32 in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from gpu_lstm.backend import Backend, widened
from gpu_lstm.recurrence.problem import Arriving, Gradients, Problem, Saved
from gpu_lstm.recurrence.tier import Tier

Parts = TypeVar("Parts", bound=Any)


def widened_tier(tier: Tier, dtype: str) -> Tier:
    """The tier for z, h, dh and dz of a dtype of 16 bits."""

    def forward(backend: Backend, problems: Sequence[Problem]) -> list[Saved]:
        wide = [replace(_wide(backend, problem), variant=_wide(backend, problem.variant)) for problem in problems]
        found = tier.forward(backend, wide)
        for saved in found:
            saved.h_last = backend.xp.asarray(saved.last[0], copy=True)
            saved.h = backend.asarray(saved.h, dtype)
        return found

    def backward(backend: Backend, arriving: Sequence[Arriving]) -> list[Gradients]:
        rounded = [one.saved.h for one in arriving]
        for one in arriving:
            one.saved.h = widened(backend, one.saved.h)
        found = tier.backward(backend, [_wide(backend, one) for one in arriving])
        for one, h in zip(arriving, rounded, strict=True):
            one.saved.h = h
        return [gradients._replace(dz=backend.asarray(gradients.dz, dtype)) for gradients in found]

    return replace(tier, forward=forward, backward=backward)


def _wide(backend: Backend, parts: Parts) -> Parts:
    """A dataclass with its arrays widened."""
    if parts is None:
        return parts
    values = {field.name: getattr(parts, field.name) for field in fields(parts)}
    return replace(parts, **{n: widened(backend, value) for n, value in values.items() if value in backend})
