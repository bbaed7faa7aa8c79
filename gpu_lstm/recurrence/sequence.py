"""The sequence tier on NumPy: the whole recurrence in one call of compiled code (``kernels/cpu``).

W_hh is packed once per call; a register-tiled product whose sums are the four gates of the same hidden units
finishes each cell before anything goes back to memory; threads split the batch, or the hidden units where the
batch is small. The plain LSTM has its own kernel, the family another one.
"""

from __future__ import annotations

import numpy as np

from gpu_lstm.backend import Array, Backend, compiled
from gpu_lstm.recurrence import family
from gpu_lstm.recurrence.contract import Mask, Saved, refuse
from gpu_lstm.recurrence.variant import EPSILON, OPTIONS, Variant

TAKES = OPTIONS


def forward(
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
    num_steps, batch, width = z.shape
    hidden = width // 4
    size = hidden if variant is None or variant.projection is None else variant.projection.shape[0]
    h = backend.empty((num_steps + 1, batch, size), z.dtype)
    c = backend.empty((num_steps + 1 if keep else 1, batch, hidden), z.dtype)
    first = -1 if reverse else 0
    h[first] = 0 if h0 is None else h0
    c[first] = 0 if c0 is None else c0
    weight_hh = np.ascontiguousarray(weight_hh)
    lengths = None if mask is None else compiled.longs(mask.lengths)
    split = _split(num_steps, batch, hidden)
    flags = (int(reverse), int(keep))
    saved = Saved(h, c, z, weight_hh, mask, reverse, variant)
    if variant is None:
        compiled.call("forward", z.dtype, num_steps, batch, hidden, z, weight_hh, h, c, lengths, *flags, *split)
        return saved
    gains = (variant.gain_hh, variant.gain_c, variant.shift_c)
    refuse(len({gain is None for gain in gains}) > 1, "part of layer normalisation")
    kept = num_steps if keep else 1
    if keep and variant.zoneout_c is not None:
        saved.cells = backend.empty((num_steps, batch, hidden), z.dtype)
    if variant.projection is not None:
        saved.unprojected = backend.empty((kept, batch, hidden), z.dtype)
    if variant.gain_hh is not None:
        saved.normalised = backend.empty((kept, batch, width), z.dtype)
        saved.scales = backend.empty((kept, batch, 1), z.dtype)
    problem = _Problem(saved, variant)
    compiled.call(
        "family_forward", z.dtype, *problem.arguments, z, h, c, saved.cells, saved.unprojected, saved.normalised,
        saved.scales, lengths, *flags, *split,
    )  # fmt: skip
    return saved


def backward(
    backend: Backend,
    saved: Saved,
    dh: Array | None,
    dh_last: Array | None,
    dc_last: Array | None,
    dc: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Backpropagate through all steps; see `gpu_lstm.recurrence.reference.backward`."""
    num_steps, batch, size = saved.h.shape[0] - 1, saved.h.shape[1], saved.h.shape[2]
    hidden = saved.c.shape[2]
    dh0 = np.zeros((batch, size), dtype=saved.h.dtype)
    dc0 = np.zeros((batch, hidden), dtype=saved.h.dtype)
    if dh_last is not None:
        dh0 += dh_last
    if dc_last is not None:
        dc0 += dc_last
    lengths = None if saved.mask is None else compiled.longs(saved.mask.lengths)
    split = _split(num_steps, batch, hidden)
    gates, weight_hh, reverse = saved.gates, saved.weight_hh, int(saved.reverse)
    if saved.variant is None and dc is None:
        compiled.call(
            "backward", gates.dtype, num_steps, batch, hidden, gates, weight_hh, saved.h, saved.c, *_rows(dh), dh0,
            dc0, lengths, reverse, *split,
        )  # fmt: skip
        return gates, dh0, dc0
    variant = saved.variant or Variant()
    projected = peepholes = norm = None
    if variant.projection is not None:
        projected = backend.empty((num_steps, batch, size), gates.dtype)
    if variant.peepholes is not None:
        peepholes = np.zeros((batch, 3, hidden), gates.dtype)
    if variant.gain_hh is not None:
        norm = np.zeros((batch, 6 * hidden), gates.dtype)
    problem = _Problem(saved, variant)
    compiled.call(
        "family_backward", gates.dtype, *problem.arguments, gates, saved.c, saved.cells, *_rows(dh), *_rows(dc), dh0,
        dc0, projected, peepholes, saved.normalised, saved.scales, norm, lengths, reverse, *split,
    )  # fmt: skip
    if projected is not None:
        rows = num_steps * batch
        m = saved.unprojected.reshape(rows, hidden)
        saved.gradients["weight_hr"] = compiled.weight_gradients(projected.reshape(rows, size), [m])[0][0]
    if peepholes is not None:
        saved.gradients["peephole"] = peepholes.sum(axis=0)
    if norm is not None:
        parts = np.split(norm.sum(axis=0), [4 * hidden, 5 * hidden])
        saved.gradients |= dict(zip(("gain_hh", "gain_c", "shift_c"), parts, strict=True))
        saved.dz_hh = saved.normalised  # it was overwritten
    return gates, dh0, dc0


class _Problem:
    """What the family's kernel takes besides the states: see ``family`` in kernels/cpu/family.h.

    Attributes
    ----------
    arguments : tuple
        Sizes and flags, numbers, pointers to arrays; these live as long as the problem.
    """

    def __init__(self, saved: Saved, variant: Variant):
        (_, batch, size), hidden, dtype = saved.h.shape, saved.c.shape[2], saved.gates.dtype
        v = variant
        options = (v.peepholes, v.projection, v.zoneout_h, v.zoneout_c, v.recurrent_mask, v.live)
        self._arrays = [
            None if array is None or isinstance(array, float) else np.ascontiguousarray(array, dtype)
            for array in (saved.weight_hh, *options, v.gain_hh, v.gain_c, v.shift_c)
        ]
        shares = [share if isinstance(share, float) else 0.0 for share in (v.zoneout_h, v.zoneout_c)]
        numbers = np.array([*family.cell_numbers(variant, float(np.finfo(dtype).eps)), *shares, EPSILON])
        flags = (int(variant.coupled), int(variant.hard_sigmoid))
        sizes = compiled.longs([saved.gates.shape[0], batch, hidden, size, variant.heads, *flags])
        self.arguments = (sizes, numbers, compiled.pointers(self._arrays))


def _rows(array: Array | None) -> tuple[Array | None, int]:
    """An array (T, B, N) of which the kernels take every row, and how many elements its rows are apart."""
    if array is None:
        return None, 0
    item, (_, batch, width) = array.itemsize, array.shape
    row = array.strides[1] // item
    if array.strides != (batch * row * item, row * item, item) or row < width:
        return np.ascontiguousarray(array), width
    return array, row


def _split(num_steps: int, batch: int, hidden: int) -> tuple[int, int]:
    """Number of threads, and 1 where they split the batch, 0 where the hidden units."""
    threads = compiled.threads()
    if num_steps * batch * 4 * hidden * hidden < compiled.SERIAL_WORK:
        threads = 1
    by_batch = batch >= 3 * threads
    return (min(threads, batch) if by_batch else threads), int(by_batch)
