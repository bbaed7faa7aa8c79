"""The sequence tier on a GPU: all steps in one launch, W_hh on chip (``kernels/cuda/sequence.cu``).

`gpu_lstm.recurrence.onchip` plans the layout for each batch size. float16 and bfloat16 arrays are taken, too: c and its
gradient, the gradient of h, and all sums are float32 then. float32 is multiplied in TF32 where the backend says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from gpu_lstm.backend import Array, Backend, kernels
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.backend.kernels import Struct
from gpu_lstm.errors import BackendError
from gpu_lstm.recurrence import onchip
from gpu_lstm.recurrence.contract import Mask, Saved, refuse
from gpu_lstm.recurrence.pointwise_cuda import check, check_z
from gpu_lstm.recurrence.starts import gradients_at_the_end, gradients_of_steps, states_at_the_start
from gpu_lstm.recurrence.together import Gradients, Problem
from gpu_lstm.recurrence.variant import Variant

TAKES: frozenset[str] = frozenset()

MOST_RUNS = 2
"""Recurrences of a launch, as ``kernels/cuda/sequence.cu`` has it."""


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
    return _forward(backend, [(z, weight_hh, h0, c0, mask, reverse, keep)], None)[0]


def backward(
    backend: Backend,
    saved: Saved,
    dh: Array | None,
    dh_last: Array | None,
    dc_last: Array | None,
    dc: Array | None = None,
) -> Gradients:
    """Backpropagate through all steps; see `gpu_lstm.recurrence.reference.backward`."""
    refuse(dc is not None, "gradients of c at every step")
    return _backward(backend, [(saved, dh, dh_last, dc_last)], None)[0]


def forward_all(backend: Backend, problems: Sequence[Problem]) -> list[Saved]:
    """`forward` of each, given what it takes after the backend; two of the same size in one launch where that pays."""
    if layout := _pair(backend, "forward", [(problem[0], problem[6:]) for problem in problems]):
        return _forward(backend, problems, layout)
    return [forward(backend, *problem) for problem in problems]


def backward_all(backend: Backend, problems: Sequence[Problem]) -> list[Gradients]:
    """`backward` of each, likewise."""
    if layout := _pair(backend, "backward", [(problem[0].gates, (True, *problem[4:])) for problem in problems]):
        return _backward(backend, problems, layout)
    return [backward(backend, *problem) for problem in problems]


def _pair(backend: Backend, direction: str, problems: Sequence[tuple[Array, tuple[Any, ...]]]) -> onchip.Layout | None:
    """The layout for two at once; None where they are not two of one kind, or run one after the other.

    Of each: z or the gates; `keep`, and what goes beyond the plain LSTM.
    """
    if len(problems) != 2 or any(beyond is not None for _, (_, *more) in problems for beyond in more):
        return None
    (z, (keep, *_)), (other, (keeps, *_)) = problems
    if z.ndim != 3 or z.shape[1:] != other.shape[1:] or z.dtype != other.dtype or keep != keeps:
        return None
    _, batch, hidden, dtype = check_z(backend, z)
    device = cast(CudaBackend, backend)
    layout = onchip.choose_pair(device.limits, direction, batch, hidden, onchip.multiplied(device, dtype))
    return None if isinstance(layout, str) else layout


def _forward(backend: Backend, problems: Sequence[Problem], layout: onchip.Layout | None) -> list[Saved]:
    """In one launch: one recurrence, or two with the layout for them."""
    xp = backend.xp
    results: list[Saved] = []
    runs: list[Struct] = []
    for z, weight_hh, h0, c0, mask, reverse, keep, *_ in problems:
        num_steps, batch, hidden, dtype = check(backend, z, weight_hh)
        layout = layout or _layout(backend, "forward", batch, hidden, dtype)
        h, shown = _handed_on(backend, layout, (num_steps + 1, batch, hidden), z.dtype)
        c = xp.empty((num_steps + 1 if keep else 1, batch, hidden), dtype=backend.dtype(kernels.ARITHMETIC[dtype]))
        states_at_the_start(h, c, h0, c0, reverse)
        if shown is not None and shown is not h:
            first = -1 if reverse else 0
            shown[first, :, :hidden] = h[first, ...]
        runs.append((z, weight_hh, h, shown, c, _lengths(backend, mask), np.int64(num_steps), np.bool_(reverse)))
        results.append(Saved(h, c, z, weight_hh, mask, reverse))
    assert layout is not None
    _launch(backend, layout, runs, (np.int32(problems[0][6]),), batch, hidden)
    return results


def _backward(backend: Backend, problems: Sequence[Problem], layout: onchip.Layout | None) -> list[Gradients]:
    """In one launch: one recurrence, or two with the layout for them."""
    results: list[Gradients] = []
    runs: list[Struct] = []
    for saved, dh, dh_last, dc_last, *_ in problems:
        gates, c, weight_hh = saved.gates, saved.c, saved.weight_hh
        num_steps, batch, hidden, dtype = check(backend, gates, weight_hh)
        layout = layout or _layout(backend, "backward", batch, hidden, dtype)
        dh_t, dc_t = gradients_at_the_end(backend, (batch, hidden), (batch, hidden), c.dtype, dh_last, dc_last)
        dh = gradients_of_steps(backend, "dh", dh, (num_steps, batch, hidden), dtype)
        dz, shown = gates, None
        if layout.form == "grid":
            dz, shown = _handed_on(backend, layout, gates.shape, gates.dtype)
        lengths, steps, reverse = _lengths(backend, saved.mask), np.int64(num_steps), np.bool_(saved.reverse)
        runs.append((gates, dz, shown, weight_hh, c, dh, dh_t, dc_t, lengths, steps, reverse))
        results.append((dz, dh_t, dc_t))
    assert layout is not None
    _launch(backend, layout, runs, (), batch, hidden)
    return results


def _layout(backend: Backend, direction: str, batch: int, hidden: int, dtype: str) -> onchip.Layout:
    device = cast(CudaBackend, backend)
    layout = onchip.choose(device.limits, direction, batch, hidden, onchip.multiplied(device, dtype))
    if isinstance(layout, str):
        raise BackendError(f"tier sequence can't run on backend {backend.name}: {layout}")
    return layout


def _lengths(backend: Backend, mask: Mask | None) -> Array | None:
    return None if mask is None else backend.asarray(mask.lengths, "int64")


def _handed_on(
    backend: Backend, layout: onchip.Layout, shape: tuple[int, ...], dtype: Any
) -> tuple[Array, Array | None]:
    """An array for h or dz, and what the blocks of a grid look at, None where there is none.

    There, all bits are set in numbers that are not there yet, a NaN that no arithmetic gives. It is the same array
    where rows are whole accesses of 16 bytes; else rows of another are, with zeros at their ends.
    """
    xp = backend.xp
    if layout.form != "grid":
        return xp.empty(shape, dtype=dtype), None
    width, item = shape[-1], np.dtype(dtype).itemsize
    wide = -(-width * item // 16) * 16 // item
    bits = xp.full((*shape[:-1], wide), 2 ** (8 * item) - 1, dtype=np.dtype(f"uint{8 * item}"))
    if wide > width:
        bits[..., width:] = 0
    shown = bits.view(dtype)
    return (shown if wide == width else xp.empty(shape, dtype=dtype)), shown


def _launch(
    backend: Backend, layout: onchip.Layout, runs: list[Struct], flags: tuple[Any, ...], batch: int, hidden: int
) -> None:
    """Launch with what each recurrence takes; those that a launch could have besides are all null."""
    none = tuple(type(field)(0) if isinstance(field, np.generic) else None for field in runs[0])
    runs = runs + [none] * (MOST_RUNS - len(runs))
    watched = layout.form != "block" and kernels.watchdog() > 0
    gave_up = backend.xp.zeros((layout.together * layout.teams,), dtype=backend.xp.uint32) if watched else None
    kernel = kernels.sequence(layout.direction, layout.dtype, layout.form, layout.height, layout.columns)
    sizes = batch, hidden, layout.members, layout.share, layout.slice, layout.split, layout.pitch, layout.buffers
    backend.kernel(kernel)(
        (layout.blocks,),
        (kernels.sequence_threads(layout.dtype),),
        (tuple(runs), gave_up, *flags, tuple(map(np.uint32, sizes))),
        layout.shared_bytes,
    )
    if gave_up is not None and backend.to_numpy(gave_up).any():
        raise BackendError(
            f"CUDA kernel {kernel.expression} waited in vain: blocks gave up after {kernels.WATCHDOG}="
            f"{kernels.watchdog()} looks ({layout.describe()})"
        )
