"""The pointwise tier on NumPy: BLAS at each step, and one compiled loop (``kernels/cpu``) for all that is elementwise.

The loop over time is the reference tier's; only the cell is another.
"""

from __future__ import annotations

from functools import partial

from gpu_lstm.backend import Array, Backend, compiled
from gpu_lstm.recurrence import reference


def cell_forward(backend: Backend, z: Array, c_before: Array, c: Array, h: Array) -> None:
    """One cell, in one pass; see `gpu_lstm.recurrence.reference.cell_forward`."""
    compiled.call("cell_forward", z.dtype, *h.shape, z, c_before, c, h)


def cell_backward(backend: Backend, gates: Array, c_before: Array, c: Array, h: Array, dh: Array, dc: Array) -> None:
    """One cell's derivatives, in one pass; see `gpu_lstm.recurrence.reference.cell_backward`."""
    compiled.call("cell_backward", gates.dtype, *h.shape, gates, c_before, c, dh, dc)


forward = partial(reference.forward, cell=cell_forward)
backward = partial(reference.backward, cell=cell_backward)
