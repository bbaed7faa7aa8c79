"""The sequence tier on a GPU: all steps in one launch, W_hh on chip (``kernels/cuda/sequence.cu``).

`gpu_lstm.recurrence.onchip` plans the layout for each batch size. float16 and bfloat16 arrays are taken, too: c and its
gradient, the gradient of h, and all sums are float32 then.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from gpu_lstm.backend import Array, Backend, kernels
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.errors import BackendError
from gpu_lstm.recurrence import onchip
from gpu_lstm.recurrence.contract import Mask, Saved, refuse
from gpu_lstm.recurrence.pointwise_cuda import check
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
    """Run the recurrence over all steps; see `gpu_lstm.recurrence.reference.forward`.

    Raises
    ------
    InputError
        An array has another dtype, shape or device, has gaps, or is too large.
    BackendError
        W_hh doesn't fit on chip, or the device can't keep all blocks resident.
    """
    refuse(variant is not None, "a variant")
    xp = backend.xp
    num_steps, batch, hidden, dtype = check(backend, z, weight_hh)
    layout = _layout(backend, "forward", batch, hidden, dtype)
    shape = num_steps + 1, batch, hidden
    h = _missing(backend, shape, z.dtype) if layout.form == "grid" else xp.empty(shape, dtype=z.dtype)
    c = xp.empty((num_steps + 1 if keep else 1, batch, hidden), dtype=backend.dtype(kernels.ARITHMETIC[dtype]))
    first = -1 if reverse else 0
    h[first, ...] = 0 if h0 is None else h0
    c[first, ...] = 0 if c0 is None else c0
    lengths = None if mask is None else backend.asarray(mask.lengths, "int64")
    flags = int(reverse), int(keep), _packs(dtype, hidden, h)
    _launch(backend, layout, (z, weight_hh, h, c, lengths), num_steps, flags, batch, hidden)
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
    xp = backend.xp
    gates, c, weight_hh = saved.gates, saved.c, saved.weight_hh
    num_steps, batch, hidden, dtype = check(backend, gates, weight_hh)
    layout = _layout(backend, "backward", batch, hidden, dtype)
    dh_t, dc_t = (xp.empty((batch, hidden), dtype=c.dtype) for _ in range(2))
    dh_t[...] = 0 if dh_last is None else dh_last
    dc_t[...] = 0 if dc_last is None else dc_last
    if dh is not None:
        backend.require("dh", dh, (num_steps, batch, hidden), dtype)
        dh = xp.ascontiguousarray(dh)  # one direction's part of a wider array has gaps
    lengths = None if saved.mask is None else backend.asarray(saved.mask.lengths, "int64")
    dz = _missing(backend, gates.shape, gates.dtype) if layout.form == "grid" else gates
    flags = int(saved.reverse), _packs(dtype, 4 * hidden, dz)
    _launch(backend, layout, (gates, dz, weight_hh, c, dh, dh_t, dc_t, lengths), num_steps, flags, batch, hidden)
    return dz, dh_t, dc_t


def _layout(backend: Backend, direction: str, batch: int, hidden: int, dtype: str) -> onchip.Layout:
    layout = onchip.choose(cast(CudaBackend, backend).limits, direction, batch, hidden, dtype)
    if isinstance(layout, str):
        raise BackendError(f"tier sequence can't run on backend {backend.name}: {layout}")
    return layout


def _missing(backend: Backend, shape: tuple[int, ...], dtype: Any) -> Array:
    """Numbers that are not there yet for the blocks of a grid: all bits set, a NaN that no arithmetic gives."""
    bits = 8 * np.dtype(dtype).itemsize
    return backend.xp.full(shape, 2**bits - 1, dtype=np.dtype(f"uint{bits}")).view(dtype)


def _launch(
    backend: Backend,
    layout: onchip.Layout,
    arrays: tuple[Array | None, ...],
    num_steps: int,
    flags: tuple[int, ...],
    batch: int,
    hidden: int,
) -> None:
    watched = layout.form == "grid" and kernels.watchdog() > 0
    gave_up = backend.xp.zeros((layout.teams,), dtype=backend.xp.uint32) if watched else None
    kernel = kernels.sequence(layout.direction, layout.dtype, layout.form, layout.columns)
    sizes = batch, hidden, layout.members, layout.share, layout.slice, layout.split, layout.pitch
    backend.kernel(kernel)(
        (layout.blocks,),
        (kernels.SEQUENCE_THREADS,),
        (*arrays, gave_up, np.int64(num_steps), *map(np.int32, flags), *map(np.uint32, sizes)),
        layout.shared_bytes,
    )
    if gave_up is not None and backend.to_numpy(gave_up).any():
        raise BackendError(
            f"CUDA kernel {kernel.expression} waited in vain: blocks gave up after {kernels.WATCHDOG}="
            f"{kernels.watchdog()} looks ({layout.describe()})"
        )


def _packs(dtype: str, row: int, array: Array) -> int:
    """Whether rows of that many elements can be read 16 bytes at a time."""
    return int(row % kernels.neighbours(dtype) == 0 and kernels.aligned(16, array))
