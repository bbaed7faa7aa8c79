"""What every tier of the recurrence takes and returns.

Only the recurrence has a loop over time; the products with x and the sums over time are one large matrix
product each and live in the LSTM layer. A tier is two functions with these signatures::

    forward(backend, z, weight_hh, h0, c0, mask, reverse, keep, variant) -> Saved
    backward(backend, saved, dh, dh_last, dc_last, dc)                   -> dz, dh0, dc0

T time steps, B sequences, H hidden size; arrays are time-major and C-contiguous. What goes beyond the plain LSTM is a
`Variant`: projection, peepholes, layer normalisation and so on.

A tier may take layers of a stack at once, plain ones of the same H that run forward in time, each on top of the one
before. Their `Joint`s stand for the products between them, one fewer than there are layers. It then has, too::

    layers_at_once(backend, direction, batch, hidden, dtype, layers) -> how many of so many it is to be given; 1: none
    forward_stack(backend, problems, joints)  -> of each layer what forward returns
    backward_stack(backend, problems, joints) -> of each layer what backward returns

A problem is what `forward` or `backward` takes after the backend, in its order. Layers above the first have no z,
layers below the last no dh: it comes through the joint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
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


class Tier(Protocol):
    """The two functions of a tier.

    Attributes
    ----------
    TAKES : frozenset of str
        Names of the LSTM's options that it takes, of those that concern the recurrence.
    """

    TAKES: frozenset[str]

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
        """Run the recurrence over all steps; where `keep` is false, nothing need be saved for backward."""

    def backward(
        self,
        backend: Backend,
        saved: Saved,
        dh: Array | None,
        dh_last: Array | None,
        dc_last: Array | None,
        dc: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        """Backpropagate through all steps; `dc` is what arrives at c of each step."""


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


def refuse(asked: bool, what: str) -> None:
    """Refuse what a tier doesn't take; the plan picks another one, so only a direct call gets here.

    Raises
    ------
    InputError
        It was asked for.
    """
    if asked:
        raise InputError(f"this tier takes no {what}; the reference tier does")
