"""What every tier of the recurrence takes and returns.

Only the recurrence has a loop over time; the products with x and the sums over time are one large matrix
product each and live in the LSTM layer. A tier is two functions with these signatures::

    forward(backend, z, weight_hh, h0, c0, mask, reverse, keep) -> Saved
    backward(backend, saved, dh, dh_last, dc_last)        -> dz, dh0, dc0

T time steps, B sequences, H hidden size; arrays are time-major and C-contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gpu_lstm.backend import Array, Backend


@dataclass
class Mask:
    """Which steps belong to each sequence, for batches of different lengths.

    Attributes
    ----------
    lengths : numpy.ndarray of int64, (B,)
        Steps of each sequence, 0..T, on the host.
    valid : bool array, (T, B, 1)
        True where step t belongs to sequence b, on the backend.
    """

    lengths: np.ndarray
    valid: Array

    def part(self, start: int, stop: int) -> Mask | None:
        """The mask of steps start..stop-1; None where all of them belong to every sequence."""
        if self.lengths.min() >= stop:
            return None
        return Mask(np.clip(self.lengths - start, 0, stop - start), self.valid[start:stop, ...])

    def full(self, t: int) -> bool:
        """Whether step `t` belongs to every sequence."""
        return bool(t < self.lengths.min())


@dataclass
class Saved:
    """What forward hands to backward.

    Attributes
    ----------
    h, c : (T+1, B, H)
        Hidden and cell state. Forward in time, slot 0 is the initial state and slot t+1 the state after
        step t; in reverse, slot T is the initial state and slot t the state after step t. The state of a
        sequence outside its own steps is that of its nearest step. c has one slot, the last one, where nothing
        was kept for backward.
    gates : (T, B, 4H)
        Activated gates i, f, g, o, in the memory of the z that forward was given. Backward may overwrite them.
    weight_hh : (4H, H)
    mask : Mask or None
        None: every sequence has T steps.
    reverse : bool
        The recurrence ran from the last step to the first.
    """

    h: Array
    c: Array
    gates: Array
    weight_hh: Array
    mask: Mask | None
    reverse: bool

    @property
    def outputs(self) -> Array:
        """h after each step, (T, B, H), a view."""
        return self.h[:-1, ...] if self.reverse else self.h[1:, ...]

    @property
    def before(self) -> Array:
        """h before each step, (T, B, H), a view."""
        return self.h[1:, ...] if self.reverse else self.h[:-1, ...]

    @property
    def last(self) -> tuple[Array, Array]:
        """Final h and c, (B, H) each, views: the state after each sequence's own last step."""
        return self.h[0 if self.reverse else -1, ...], self.c[0 if self.reverse else -1, ...]


class Tier(Protocol):
    """The two functions of a tier."""

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
    ) -> Saved:
        """Run the recurrence over all steps; where `keep` is false, nothing need be saved for backward."""

    def backward(
        self, backend: Backend, saved: Saved, dh: Array | None, dh_last: Array | None, dc_last: Array | None
    ) -> tuple[Array, Array, Array]:
        """Backpropagate through all steps."""


def slots(num_steps: int, reverse: bool) -> list[tuple[int, int, int]]:
    """The steps in the order that forward takes them: (t, slot of the state before, slot after)."""
    if reverse:
        return [(t, t + 1, t) for t in range(num_steps - 1, -1, -1)]
    return [(t, t, t + 1) for t in range(num_steps)]
