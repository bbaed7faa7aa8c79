"""The sequence tier on NumPy: the whole recurrence in one call of compiled code (``kernels/cpu``).

W_hh is packed once per call; a register-tiled product whose sums are the four gates of the same hidden units
finishes each cell before anything goes back to memory; threads split the batch, or the hidden units where the
batch is small.
"""

from __future__ import annotations

import numpy as np

from gpu_lstm.backend import Array, Backend, compiled
from gpu_lstm.recurrence.contract import Mask, Saved, refuse
from gpu_lstm.recurrence.variant import Variant

TAKES: frozenset[str] = frozenset()


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
    refuse(variant is not None, "a variant")
    num_steps, batch, width = z.shape
    hidden = width // 4
    h = backend.empty((num_steps + 1, batch, hidden), z.dtype)
    c = backend.empty((num_steps + 1 if keep else 1, batch, hidden), z.dtype)
    first = -1 if reverse else 0
    h[first] = 0 if h0 is None else h0
    c[first] = 0 if c0 is None else c0
    weight_hh = np.ascontiguousarray(weight_hh)
    lengths = None if mask is None else compiled.longs(mask.lengths)
    split = _split(num_steps, batch, hidden)
    flags = (int(reverse), int(keep))
    compiled.call("forward", z.dtype, num_steps, batch, hidden, z, weight_hh, h, c, lengths, *flags, *split)
    return Saved(h, c, z, weight_hh, mask, reverse)


def backward(
    backend: Backend,
    saved: Saved,
    dh: Array | None,
    dh_last: Array | None,
    dc_last: Array | None,
    dc: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Backpropagate through all steps; see `gpu_lstm.recurrence.reference.backward`."""
    refuse(dc is not None, "gradients of c at every step")
    num_steps, batch, hidden = saved.h.shape[0] - 1, saved.h.shape[1], saved.h.shape[2]
    dh0 = np.zeros((batch, hidden), dtype=saved.h.dtype)
    dc0 = np.zeros((batch, hidden), dtype=saved.h.dtype)
    if dh_last is not None:
        dh0 += dh_last
    if dc_last is not None:
        dc0 += dc_last
    row = hidden
    if dh is not None:
        item = dh.itemsize
        row = dh.strides[1] // item
        if dh.strides != (batch * row * item, row * item, item) or row < hidden:
            dh, row = np.ascontiguousarray(dh), hidden
    lengths = None if saved.mask is None else compiled.longs(saved.mask.lengths)
    split = _split(num_steps, batch, hidden)
    gates, weight_hh, reverse = saved.gates, saved.weight_hh, int(saved.reverse)
    compiled.call(
        "backward", gates.dtype, num_steps, batch, hidden, gates, weight_hh, saved.h, saved.c, dh, row, dh0, dc0,
        lengths, reverse, *split,
    )  # fmt: skip
    return saved.gates, dh0, dc0


def _split(num_steps: int, batch: int, hidden: int) -> tuple[int, int]:
    """Number of threads, and 1 where they split the batch, 0 where the hidden units."""
    threads = compiled.threads()
    if num_steps * batch * 4 * hidden * hidden < compiled.SERIAL_WORK:
        threads = 1
    by_batch = batch >= 3 * threads
    return (min(threads, batch) if by_batch else threads), int(by_batch)
