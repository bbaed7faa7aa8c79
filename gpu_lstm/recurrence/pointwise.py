"""The pointwise tier on NumPy: BLAS at each step, and one compiled loop (``kernels/cpu``) for all that is elementwise.

The loop over time is the reference tier's; only the cell is another.
"""

from __future__ import annotations

from gpu_lstm.backend import Array, Backend, compiled
from gpu_lstm.recurrence import family, reference
from gpu_lstm.recurrence.contract import Mask, Saved
from gpu_lstm.recurrence.variant import OPTIONS, Variant

TAKES = OPTIONS


def cell_forward(backend: Backend, z: Array, c_before: Array, c: Array, h: Array) -> None:
    """One cell, in one pass; see `gpu_lstm.recurrence.reference.cell_forward`."""
    compiled.call("cell_forward", z.dtype, *h.shape, z, c_before, c, h)


def cell_backward(backend: Backend, gates: Array, c_before: Array, c: Array, h: Array, dh: Array, dc: Array) -> None:
    """One cell's derivatives, in one pass; see `gpu_lstm.recurrence.reference.cell_backward`."""
    compiled.call("cell_backward", gates.dtype, *h.shape, gates, c_before, c, dh, dc)


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
    if variant is not None:
        return family.forward(backend, z, weight_hh, h0, c0, mask, reverse, variant)
    return reference.forward(backend, z, weight_hh, h0, c0, mask, reverse, keep, cell=cell_forward)


def backward(
    backend: Backend,
    saved: Saved,
    dh: Array | None,
    dh_last: Array | None,
    dc_last: Array | None,
    dc: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Backpropagate through all steps; see `gpu_lstm.recurrence.reference.backward`."""
    return reference.backward(backend, saved, dh, dh_last, dc_last, dc, cell=cell_backward)
