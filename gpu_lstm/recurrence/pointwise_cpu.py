"""The pointwise tier on NumPy: BLAS at each step, and one compiled loop (``kernels/cpu``) for all that is elementwise.

The loop over time is the reference tier's; only the cell is another.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.native import compiled
from gpu_lstm.recurrence import family, reference
from gpu_lstm.recurrence.problem import Mask, Saved
from gpu_lstm.recurrence.variant import OPTIONS, Variant

TAKES = OPTIONS


def cell_forward(backend: Backend, z: Array, c_before: Array, c: Array, h: Array) -> None:
    """One cell, in one pass; see `gpu_lstm.recurrence.reference.cell_forward`."""
    compiled.call("cell_forward", z.dtype, *h.shape, z, c_before, c, h)


def cell_backward(backend: Backend, gates: Array, c_before: Array, c: Array, h: Array, dh: Array, dc: Array) -> None:
    """One cell's derivatives, in one pass; see `gpu_lstm.recurrence.reference.cell_backward`."""
    compiled.call("cell_backward", gates.dtype, *h.shape, gates, c_before, c, dh, dc)


def family_cells(variant: Variant, dtype: np.dtype) -> tuple[Callable[..., None], Callable[..., None]] | None:
    """A variant's cell and its derivatives, in one pass each; None where it normalises c: the array cell does.

    Called as `gpu_lstm.recurrence.family.cell_forward` and `cell_backward` are.
    """
    if variant.gain_c is not None:
        return None
    numbers = np.array(family.cell_numbers(variant, float(np.finfo(dtype).eps)))
    options = (int(variant.coupled), int(variant.hard_sigmoid), numbers, variant.peepholes)

    def forward(backend: Backend, variant: Variant, z: Array, c_old: Array, c: Array, m: Array) -> None:
        compiled.call("family_cell_forward", z.dtype, *m.shape, *options, z, c_old, c, m)

    def backward(
        backend: Backend, variant: Variant, gates: Array, c_old: Array, c: Array, dm: Array, dc: Array,
        gradients: dict[str, Array],
    ) -> None:  # fmt: skip
        compiled.call("family_cell_backward", gates.dtype, *dm.shape, *options, gates, c_old, c, dm, dc)

    return forward, backward


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
        cells = family_cells(variant, z.dtype)
        return family.forward(backend, z, weight_hh, h0, c0, mask, reverse, variant, cells and cells[0])
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
    if saved.variant is not None or dc is not None:
        cells = family_cells(saved.variant or Variant(), saved.gates.dtype)
        return family.backward(backend, saved, dh, dh_last, dc_last, dc, cells and cells[1])
    return reference.backward(backend, saved, dh, dh_last, dc_last, dc, cell=cell_backward)
