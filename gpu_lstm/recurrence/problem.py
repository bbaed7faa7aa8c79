"""What every tier of the recurrence takes and gives.

Only the recurrence has a loop over time; the products with x and the sums over time are one large matrix product each
and live in the LSTM layer. A `Problem` goes through all steps and becomes `Saved`; what `Arriving` brings from the loss
goes back and becomes `Gradients`. A tier takes lists of them: one, two directions of a layer, or layers of a stack.

T time steps, B sequences, H hidden size; arrays are time-major and C-contiguous. Beyond the plain LSTM is a `Variant`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.native.kept import Made
from gpu_lstm.recurrence.variant import Variant


@dataclass
class Mask:
    """Which steps belong to each sequence, for batches of different lengths."""

    lengths: np.ndarray  # (B,) of int64: steps of each sequence, 0..T, on the host
    valid: Array  # (T, B, 1): True where step t belongs to sequence b, on the backend

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
    """What forward hands to backward."""

    # (T+1, B, P) and (T+1, B, H), P is H without a projection. Slot 0 is the initial state and slot t+1 that after step
    # t; in reverse, slot T the initial state and slot t that after step t. Outside its own steps a sequence has the
    # state of its nearest step. c has one slot, the last one, where nothing was kept for backward.
    h: Array
    c: Array
    gates: Array  # (T, B, 4H): activated i, f, g, o, in the memory of forward's z; backward may overwrite them
    weight_hh: Array  # (4H, H)
    mask: Mask | None  # None: every sequence has T steps
    reverse: bool  # the recurrence ran from the last step to the first
    variant: Variant | None = None  # None: the plain LSTM. Only with one are the rest used.
    cells: Array = None  # (T, B, H) or None: the new c of each step before zoneout; None: that is in `c`
    unprojected: Array = None  # (T, B, H) or None: o tanh(c) of each step, where that is projected
    # (T, B, 4H) and (T, B, 1), or None: h W_hh^T normalised and the factor that did it, where that is normalised
    normalised: Array = None
    scales: Array = None
    # (T, B, 1) or None: the same of c, where the tier keeps them
    c_means: Array = None
    c_scales: Array = None
    # (T, B, 4H) or None: set by backward: the gradient of h W_hh^T, where its normalisation makes it another than dz
    dz_hh: Array = None
    h_last: Array = None  # (B, P) or None: the final h in float32, where `h` was rounded after all steps
    # set by backward: of the variant's parameters, ``weight_hr``, ``peephole``, ``gain_hh``, ``gain_c``, ``shift_c``
    gradients: dict[str, Array] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """T, B, H."""
        return len(self.gates), self.c.shape[1], self.c.shape[2]

    @property
    def lengths(self) -> np.ndarray | None:
        """Of the sequences on the host; None: every one has T steps."""
        return None if self.mask is None else self.mask.lengths

    @property
    def outputs(self) -> Array:
        """h after each step, (T, B, P), a view."""
        return self.h[:-1, ...] if self.reverse else self.h[1:, ...]

    @property
    def c_after(self) -> Array:
        """c after each step, (T, B, H), a view."""
        return self.c[:-1, ...] if self.reverse else self.c[1:, ...]

    @property
    def before(self) -> Array:
        """What each step multiplies by W_hh, (T, B, P): h before it, a view, or that with the variant's factors."""
        h = self.h[1:, ...] if self.reverse else self.h[:-1, ...]
        if self.variant is not None:
            for factor in (self.variant.live, self.variant.recurrent_mask):
                h = h if factor is None else h * factor
        return h

    @property
    def last(self) -> tuple[Array, Array]:
        """Final h and c, (B, P) and (B, H), views: the state after each sequence's own last step."""
        end = 0 if self.reverse else -1
        return self.h[end, ...] if self.h_last is None else self.h_last, self.c[end, ...]


@dataclass(frozen=True)
class Joint:
    """What lies between a layer and the one below: the upper one's z is (h * factors) W_ih^T + bias."""

    weight_ih: Array  # (4H, H): of the upper layer
    bias: Array | None = None  # (4H,) or None: in the dtype of sums, rounded to that of h; None: zeros
    factors: Array | None = None  # (T, B, H) or None: dropout of the lower layer's h; None: ones


@dataclass(eq=False)
class Problem:
    """A recurrence to run through all steps."""

    # (T, B, 4H): ``x W_ih^T + b``, gate order i, f, g, o. Overwritten: it becomes ``Saved.gates``. None with `below`.
    z: Array
    weight_hh: Array  # (4H, P / heads)
    # (B, P) and (B, H), or None: initial state; None is zero
    h0: Array = None
    c0: Array = None
    # Lengths of the sequences; outside its own steps a sequence keeps its state. None: all have T steps.
    mask: Mask | None = None
    reverse: bool = False  # from the last step to the first
    keep: bool = True  # whether backward will follow; if not, nothing need be saved for it
    variant: Variant | None = None  # what goes beyond the plain LSTM
    below: Joint | None = None  # it lies on top of the problem before it in the list
    kept: Made | None = None  # for inference: what the tier made of weight_hh in a call before


@dataclass(eq=False)
class Arriving:
    """What arrives at a recurrence that has run, from the loss and from what came after it."""

    saved: Saved  # its arrays are overwritten: it can be used once
    # (T, B, P) and (T, B, H), or None: gradient of the loss with respect to h and c of each step; None is zero
    dh: Array = None
    # (B, P) and (B, H), or None: gradient with respect to the final state; None is zero
    dh_last: Array = None
    dc_last: Array = None
    dc: Array = None
    below: Joint | None = None  # it lies on top of the one before it in the list, which has its dh from there


class Gradients(NamedTuple):
    """What goes on from a recurrence: dz (T, B, 4H), exactly 0 outside a sequence; dh0 (B, P) and dc0 (B, H)."""

    dz: Array
    dh0: Array
    dc0: Array


def begin(problem: Problem, h: Array, c: Array) -> None:
    """Set the initial slots of h (T+1, B, P) and c (T+1 or 1, B, H)."""
    first = -1 if problem.reverse else 0
    h[first, ...] = 0 if problem.h0 is None else problem.h0
    c[first, ...] = 0 if problem.c0 is None else problem.c0


def gradients_at_the_end(
    backend: Backend, arriving: Arriving, h_shape: tuple[int, ...], c_shape: tuple[int, ...], dtype: Any
) -> tuple[Array, Array]:
    """Memory for the gradients of h and c, filled with those of the final state."""
    if arriving.dh_last is None and arriving.dc_last is None and h_shape == c_shape:
        both = backend.xp.zeros((2, *h_shape), dtype=dtype)  # one launch
        return both[0, ...], both[1, ...]
    dh, dc = (backend.xp.empty(shape, dtype=dtype) for shape in (h_shape, c_shape))
    dh[...] = 0 if arriving.dh_last is None else arriving.dh_last
    dc[...] = 0 if arriving.dc_last is None else arriving.dc_last
    return dh, dc


def slots(num_steps: int, reverse: bool) -> list[tuple[int, int, int]]:
    """The steps in the order that forward takes them: (t, slot of the state before, slot after)."""
    if reverse:
        return [(t, t + 1, t) for t in range(num_steps - 1, -1, -1)]
    return [(t, t, t + 1) for t in range(num_steps)]


def split_gates(array: Array) -> tuple[Array, Array, Array, Array]:
    """Views of the gates i, f, g, o of an array (B, 4H)."""
    n = array.shape[1] // 4
    return array[:, :n], array[:, n : 2 * n], array[:, 2 * n : 3 * n], array[:, 3 * n :]


def transposed(backend: Backend, matrix: Array) -> Array:
    """Copy of the transpose (N, M), C-contiguous: BLAS multiplies a few rows much faster by such a matrix."""
    copy = backend.empty((matrix.shape[1], matrix.shape[0]), matrix.dtype)
    copy[...] = matrix.T
    return copy
