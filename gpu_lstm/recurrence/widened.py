"""A tier of float32 for arrays of 16 bits: they are widened before it and its results rounded after it.

So 16-bit layers run where no kernel stores in 16 bits. h is rounded once it has gone through all steps, not between
them as in the CUDA kernels; c, its gradient and the gradient of the initial state are float32 in both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gpu_lstm.backend import Array, Backend
from gpu_lstm.recurrence.contract import Saved, Tier


@dataclass(frozen=True)
class Widened:
    """The same two functions as those of `tier`.

    Attributes
    ----------
    tier : Tier
    dtype : str
        Of z, h, dh and dz.
    """

    tier: Tier
    dtype: str

    def forward(
        self, backend: Backend, z: Array, weight_hh: Array, h0: Array | None, c0: Array | None, *more: Any, **named: Any
    ) -> Saved:
        """Run the recurrence over all steps; see `gpu_lstm.recurrence.reference.forward`."""
        wide = [None if array is None else backend.widened(array) for array in (z, weight_hh, h0, c0)]
        saved = self.tier.forward(backend, *wide, *more, **named)  # type: ignore[arg-type]
        return replace(saved, h=backend.asarray(saved.h, self.dtype))

    def backward(
        self, backend: Backend, saved: Saved, *arriving: Array | None, **named: Any
    ) -> tuple[Array, Array, Array]:
        """Backpropagate through all steps; see `gpu_lstm.recurrence.reference.backward`."""
        wide = [None if array is None else backend.widened(array) for array in arriving]
        saved = replace(saved, h=backend.widened(saved.h))
        dz, dh0, dc0 = self.tier.backward(backend, saved, *wide, **named)
        return backend.asarray(dz, self.dtype), dh0, dc0
