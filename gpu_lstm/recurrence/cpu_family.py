"""The family on NumPy: what `gpu_lstm.recurrence.cpu` calls for one recurrence with a variant."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Backend
from gpu_lstm.native import compiled
from gpu_lstm.recurrence import packed
from gpu_lstm.recurrence.problem import Arriving, Gradients, Saved
from gpu_lstm.recurrence.variant import Variant, refuse


def forward(backend: Backend, saved: Saved, variant: Variant, split: tuple[int, int]) -> None:
    """Fill what `gpu_lstm.recurrence.cpu` has begun."""
    z, (num_steps, batch, hidden), keep = saved.gates, saved.sizes, len(saved.c) == len(saved.h)
    gains = (variant.gain_hh, variant.gain_c, variant.shift_c)
    refuse(len({gain is None for gain in gains}) > 1, "part of layer normalisation")
    kept = num_steps if keep else 1
    if keep and variant.zoneout_c is not None:
        saved.cells = backend.empty((num_steps, batch, hidden), z.dtype)
    if variant.projection is not None:
        saved.unprojected = backend.empty((kept, batch, hidden), z.dtype)
    if variant.gain_hh is not None:
        saved.normalised = backend.empty((kept, batch, 4 * hidden), z.dtype)
        saved.scales = backend.empty((kept, batch, 1), z.dtype)
    compiled.call(
        "family_forward", z.dtype, num_steps, batch, hidden, *_of_variant(saved, variant), z, saved.h, saved.c,
        saved.cells, saved.unprojected, saved.normalised, saved.scales, saved.lengths, int(saved.reverse), int(keep),
        *split,
    )  # fmt: skip


def backward(backend: Backend, one: Arriving, found: Gradients, split: tuple[int, int]) -> None:
    """Make gradients of the final states those of the initial ones, the gates dz; and find those of the options."""
    saved, gates = one.saved, one.saved.gates
    (num_steps, batch, hidden), size = saved.sizes, saved.h.shape[2]
    variant = saved.variant or Variant()
    projected = peepholes = norm = None
    if variant.projection is not None:
        projected = backend.empty((num_steps, batch, size), gates.dtype)
    if variant.peepholes is not None:
        peepholes = np.zeros((batch, 3, hidden), gates.dtype)
    if variant.gain_hh is not None:
        norm = np.zeros((batch, 6 * hidden), gates.dtype)
    compiled.call(
        "family_backward", gates.dtype, num_steps, batch, hidden, *_of_variant(saved, variant), gates, saved.c,
        saved.cells, one.dh, one.dc, found.dh0, found.dc0, projected, peepholes, saved.normalised, saved.scales, norm,
        saved.lengths, int(saved.reverse), *split,
    )  # fmt: skip
    if projected is not None:
        rows = num_steps * batch
        m = saved.unprojected.reshape(rows, hidden)
        saved.gradients["weight_hr"] = ops.of(backend).weight_gradients(projected.reshape(rows, size), [m])[0][0]
    if peepholes is not None:
        saved.gradients["peephole"] = peepholes.sum(axis=0)
    if norm is not None:
        parts = np.split(norm.sum(axis=0), [4 * hidden, 5 * hidden])
        saved.gradients |= dict(zip(("gain_hh", "gain_c", "shift_c"), parts, strict=True))
        saved.dz_hh = saved.normalised  # it was overwritten


def _of_variant(saved: Saved, variant: Variant) -> tuple[Any, ...]:
    """What the family's kernel takes besides T, B, H and the states: see ``Family`` in kernels/cpu/family.h."""
    size, heads = saved.h.shape[2], variant.heads
    refuse(saved.c.shape[2] % heads + size % heads > 0, f"{heads} heads that don't divide H and P")
    return size, heads, *packed.listed(variant, str(saved.h.dtype)), saved.weight_hh, variant.projection
