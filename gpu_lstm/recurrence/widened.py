"""A tier of float32 for arrays of 16 bits: they are widened before it and its results rounded after it.

So 16-bit layers run where no kernel stores in 16 bits. h is rounded once it has gone through all steps, not between
them as in the CUDA kernels; c, its gradient and the gradient of the initial state are float32 in both.
"""

from __future__ import annotations

from dataclasses import fields, replace

from gpu_lstm.backend import Array, Backend
from gpu_lstm.recurrence.problem import Mask, Saved, Tier
from gpu_lstm.recurrence.variant import Variant


class Widened:
    """The same two functions as those of `tier`.

    Parameters
    ----------
    tier : Tier
    dtype : str
        Of z, h, dh and dz.
    """

    def __init__(self, tier: Tier, dtype: str):
        self.tier, self.dtype, self.TAKES = tier, dtype, tier.TAKES

    def forward(
        self,
        backend: Backend,
        z: Array,
        weight_hh: Array,
        h0: Array | None,
        c0: Array | None,
        mask: Mask | None = None,
        reverse: bool = False,
        keep: bool = True,
        variant: Variant | None = None,
    ) -> Saved:
        """Run the recurrence over all steps; see `gpu_lstm.recurrence.reference.forward`."""
        if variant is not None:
            parts = {field.name: getattr(variant, field.name) for field in fields(variant)}
            variant = replace(variant, **{name: _wide(backend, part) for name, part in parts.items()})
        z, weight_hh, h0, c0 = (_wide(backend, array) for array in (z, weight_hh, h0, c0))
        saved = self.tier.forward(backend, z, weight_hh, h0, c0, mask, reverse, keep, variant)
        saved.h = backend.asarray(saved.h, self.dtype)
        return saved

    def backward(
        self,
        backend: Backend,
        saved: Saved,
        dh: Array | None,
        dh_last: Array | None,
        dc_last: Array | None,
        dc: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        """Backpropagate through all steps; see `gpu_lstm.recurrence.reference.backward`."""
        rounded, saved.h = saved.h, backend.widened(saved.h)
        arriving = (_wide(backend, array) for array in (dh, dh_last, dc_last, dc))
        dz, dh0, dc0 = self.tier.backward(backend, saved, *arriving)
        saved.h = rounded
        return backend.asarray(dz, self.dtype), dh0, dc0


def _wide(backend: Backend, part: Array) -> Array:
    """An array widened; None and plain numbers as they are."""
    return backend.widened(part) if backend.owns(part) else part
