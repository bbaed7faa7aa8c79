"""What every tier of the recurrence takes and gives.

Only the recurrence has a loop over time; the products with x and the sums over time are one large matrix product each
and live in the LSTM layer. A `Problem` goes through all steps and becomes `Saved`; what `Arriving` brings from the loss
goes back and becomes `Gradients`. A `Tier` takes lists of them: one, two directions of a layer, or layers of a stack.

T time steps, B sequences, H hidden size; arrays are time-major and C-contiguous. What goes beyond the plain LSTM is a
`Variant`: projection, peepholes, layer normalisation and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.native.kept import Made
from gpu_lstm.recurrence.variant import Variant


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
    h, c : (T+1, B, P) and (T+1, B, H)
        P is H without a projection. Hidden and cell state. Forward in time, slot 0 is the initial state and slot t+1
        the state after step t; in reverse, slot T is the initial state and slot t the state after step t. The state
        of a sequence outside its own steps is that of its nearest step. c has one slot, the last one, where nothing
        was kept for backward.
    gates : (T, B, 4H)
        Activated gates i, f, g, o, in the memory of the z that forward was given. Backward may overwrite them.
    weight_hh : (4H, H)
    mask : Mask or None
        None: every sequence has T steps.
    reverse : bool
        The recurrence ran from the last step to the first.
    variant : Variant or None
        None: the plain LSTM. Only with one are the rest used.
    cells : (T, B, H) or None
        The new c of each step before zoneout; None: that is in `c`.
    unprojected : (T, B, H) or None
        o tanh(c) of each step, where that is projected.
    normalised, scales : (T, B, 4H) and (T, B, 1), or None
        h W_hh^T normalised and the factor that did it, where that is normalised.
    c_means, c_scales : (T, B, 1) or None
        The same of c, where the tier keeps them.
    dz_hh : (T, B, 4H) or None
        Set by backward: the gradient of h W_hh^T, where its normalisation makes it another than dz.
    gradients : dict
        Set by backward: of the variant's parameters, ``weight_hr``, ``peephole``, ``gain_hh``, ``gain_c``, ``shift_c``.
    """

    h: Array
    c: Array
    gates: Array
    weight_hh: Array
    mask: Mask | None
    reverse: bool
    variant: Variant | None = None
    cells: Array = None
    unprojected: Array = None
    normalised: Array = None
    scales: Array = None
    c_means: Array = None
    c_scales: Array = None
    dz_hh: Array = None
    gradients: dict[str, Array] = field(default_factory=dict)

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
        return self.h[0 if self.reverse else -1, ...], self.c[0 if self.reverse else -1, ...]


@dataclass(frozen=True)
class Joint:
    """What lies between a layer and the one below: the upper one's z is (h * factors) W_ih^T + bias.

    Attributes
    ----------
    weight_ih : (4H, H)
        Of the upper layer.
    bias : (4H,) or None
        In the dtype of sums, rounded to that of h; None: zeros.
    factors : (T, B, H) or None
        Dropout of the lower layer's h; None: ones.
    """

    weight_ih: Array
    bias: Array | None = None
    factors: Array | None = None


@dataclass(eq=False)
class Problem:
    """A recurrence to run through all steps.

    Attributes
    ----------
    z : (T, B, 4H)
        ``x W_ih^T + b``, gate order i, f, g, o. Overwritten: it becomes ``Saved.gates``. None with `below`.
    weight_hh : (4H, P / heads)
    h0, c0 : (B, P) and (B, H), or None
        Initial state; None is zero.
    mask : Mask or None
        Lengths of the sequences; outside its own steps a sequence keeps its state. None: all have T steps.
    reverse : bool
        From the last step to the first.
    keep : bool
        Whether backward will follow; if not, nothing need be saved for it.
    variant : Variant or None
        What goes beyond the plain LSTM.
    below : Joint or None
        It lies on top of the problem before it in the list.
    kept : Made or None
        For inference: gives what the tier makes of weight_hh, which may be there from a call before.
    """

    z: Array
    weight_hh: Array
    h0: Array = None
    c0: Array = None
    mask: Mask | None = None
    reverse: bool = False
    keep: bool = True
    variant: Variant | None = None
    below: Joint | None = None
    kept: Made | None = None


@dataclass(eq=False)
class Arriving:
    """What arrives at a recurrence that has run, from the loss and from what came after it.

    Attributes
    ----------
    saved : Saved
        Its arrays are overwritten: it can be used once.
    dh, dc : (T, B, P) and (T, B, H), or None
        Gradient of the loss with respect to h and c of each step; None is zero.
    dh_last, dc_last : (B, P) and (B, H), or None
        Gradient with respect to the final state; None is zero.
    below : Joint or None
        It lies on top of the one before it in the list, which has its dh from there.
    """

    saved: Saved
    dh: Array = None
    dh_last: Array = None
    dc_last: Array = None
    dc: Array = None
    below: Joint | None = None


class Gradients(NamedTuple):
    """What goes on from a recurrence: dz (T, B, 4H), exactly 0 outside a sequence; dh0 (B, P) and dc0 (B, H)."""

    dz: Array
    dh0: Array
    dc0: Array


@dataclass(frozen=True)
class Offer:
    """What a layer could give to a tier at once, for `Tier.fit`.

    Attributes
    ----------
    direction : {"forward", "backward"}
    steps, batch, hidden : int
    dtype : str
        In which arrays are stored.
    options : frozenset of str
        Of the LSTM's options those that change the recurrence.
    count : int
        Recurrences side by side: directions.
    layers : int
        Of a stack, which could run in one launch.
    multiply_adds : int
        Of large products that could be done beside.
    """

    direction: str
    steps: int
    batch: int
    hidden: int
    dtype: str
    options: frozenset[str] = frozenset()
    count: int = 1
    layers: int = 1
    multiply_adds: int = 0


class Fit(NamedTuple):
    """What a tier makes of an `Offer`: how many of its layers at once, and whether its products go beside."""

    at_once: int = 1
    beside: bool = False


@dataclass(frozen=True)
class Tier:
    """One way to run the recurrence; whoever wraps one replaces `forward` and `backward` and maps over their lists.

    Attributes
    ----------
    takes : frozenset of str
        Of the LSTM's options that concern the recurrence, those that it takes.
    obstacle : callable
        (backend, hidden_size or None, dtype, options) -> why it can't run there, or "".
    fit : callable
        (backend, offer) -> how much of it to give at once.
    forward, backward : callable
        (backend, list of problems) -> list of saved, and (backend, list of arriving) -> list of gradients.
    """

    takes: frozenset[str]
    obstacle: Callable[[Any, int | None, str, frozenset[str]], str]
    fit: Callable[[Any, Offer], Fit]
    forward: Callable[[Any, Sequence[Problem]], list[Saved]]
    backward: Callable[[Any, Sequence[Arriving]], list[Gradients]]


def one_by_one(backend: Backend, offer: Offer) -> Fit:
    """The `fit` of a tier that runs one recurrence after the other and leaves no room beside it."""
    return Fit()


def each(one: Callable[[Any, Any], Any]) -> Callable[[Any, Sequence[Any]], list[Any]]:
    """A tier's `forward` or `backward` from a function of one problem."""
    return lambda backend, items: [one(backend, item) for item in items]


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
