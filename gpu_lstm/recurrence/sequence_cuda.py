"""The sequence tier on a GPU: all steps in one launch, W_hh on chip (``kernels/cuda/sequence.cu``).

`gpu_lstm.recurrence.onchip` plans the layout for each batch size. float16 and bfloat16 arrays are taken, too: c and its
gradient, the gradient of h, and all sums are float32 then. float32 is multiplied in TF32 where the backend says so.

Options of the LSTM family are taken by kernels of their own, all of them by the same; but no projection, which would be
a second product on chip, with another matrix and another wait for all blocks in each step, and no heads, which need
another W_hh: those stay with the pointwise tier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from gpu_lstm.backend import Array, Backend, kernels
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.backend.kernels import Struct
from gpu_lstm.errors import BackendError
from gpu_lstm.recurrence import family, onchip
from gpu_lstm.recurrence.contract import Mask, Saved, refuse
from gpu_lstm.recurrence.family_cuda import Step
from gpu_lstm.recurrence.pointwise_cuda import check, check_z
from gpu_lstm.recurrence.starts import gradients_at_the_end, gradients_of_steps, states_at_the_start
from gpu_lstm.recurrence.together import Gradients, Problem
from gpu_lstm.recurrence.variant import OPTIONS, Variant, normalise

TAKES = OPTIONS - {"proj_size", "heads"}

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
    return _forward(backend, [(z, weight_hh, h0, c0, mask, reverse, keep, variant)], None)[0]


def backward(
    backend: Backend,
    saved: Saved,
    dh: Array | None,
    dh_last: Array | None,
    dc_last: Array | None,
    dc: Array | None = None,
) -> Gradients:
    """Backpropagate through all steps; see `gpu_lstm.recurrence.reference.backward`."""
    return _backward(backend, [(saved, dh, dh_last, dc_last, dc)], None)[0]


def forward_all(backend: Backend, problems: Sequence[Problem]) -> list[Saved]:
    """`forward` of each, given what it takes after the backend; two of the same size in one launch where that pays."""
    asked = [(z, keep, _cells("forward", *rest or [None])) for z, _, _, _, _, _, keep, *rest in problems]
    if layout := _pair(backend, "forward", asked):
        return _forward(backend, problems, layout)
    return [forward(backend, *problem) for problem in problems]


def backward_all(backend: Backend, problems: Sequence[Problem]) -> list[Gradients]:
    """`backward` of each, likewise."""
    asked = [(saved.gates, True, _cells("backward", saved.variant, *rest[3:])) for saved, *rest in problems]
    if layout := _pair(backend, "backward", asked):
        return _backward(backend, problems, layout)
    return [backward(backend, *problem) for problem in problems]


def room_beside(
    backend: Backend,
    direction: str,
    shape: tuple[int, int, int],
    dtype: str,
    options: frozenset[str],
    multiply_adds: int,
    count: int,
) -> bool:
    """Whether a launch leaves multiprocessors idle for products, so that it pays: see `together.room_beside`."""
    device = cast(CudaBackend, backend)
    dtype = onchip.multiplied(device, dtype)
    if not options <= TAKES:
        return False
    cells = onchip.cells_of(direction, options)
    return onchip.beside(device.limits, direction, shape, dtype, multiply_adds, count, cells).saved > 0


def _pair(backend: Backend, direction: str, problems: Sequence[tuple[Array, bool, str]]) -> onchip.Layout | None:
    """The layout for two at once; None where they are not two of one kind, or run one after the other.

    Of each: z or the gates, `keep`, and what its cells do.
    """
    if len(problems) != 2:
        return None
    (z, *kind), (other, *other_kind) = problems
    if z.ndim != 3 or z.shape[1:] != other.shape[1:] or z.dtype != other.dtype or kind != other_kind:
        return None
    _, batch, hidden, dtype = check_z(backend, z)
    device = cast(CudaBackend, backend)
    dtype = onchip.multiplied(device, dtype)
    layout = onchip.choose_pair(device.limits, direction, batch, hidden, dtype, problems[0][2])
    return None if isinstance(layout, str) else layout


def _forward(backend: Backend, problems: Sequence[Problem], layout: onchip.Layout | None) -> list[Saved]:
    """In one launch: one recurrence, or two with the layout for them."""
    xp = backend.xp
    results: list[Saved] = []
    runs: list[Struct] = []
    for z, weight_hh, h0, c0, mask, reverse, keep, *rest in problems:
        variant: Variant | None = rest[0] if rest else None
        cells = _cells("forward", variant)
        num_steps, batch, hidden, dtype = check(backend, z, weight_hh, variant)
        layout = layout or _layout(backend, "forward", batch, hidden, dtype, cells)
        step = None if cells == "Plain" else Step(backend, variant or Variant(), z, weight_hh, mask)
        apart = step is not None and step.masked
        h, shown = _handed_on(backend, layout, (num_steps + 1, batch, hidden), z.dtype, apart)
        c = xp.empty((num_steps + 1 if keep else 1, batch, hidden), dtype=backend.dtype(kernels.ARITHMETIC[dtype]))
        states_at_the_start(h, c, h0, c0, reverse)
        first = -1 if reverse else 0
        if shown is not None and shown is not h:
            h_first = h[first, ...]
            shown[first, :, :hidden] = backend.asarray(step.masked_h(h_first, first), dtype) if step else h_first
        saved = Saved(h, c, z, weight_hh, mask, reverse, variant)
        run: Struct = (z, weight_hh, h, shown, c, _lengths(backend, mask), np.int64(num_steps), np.bool_(reverse))
        if step is not None:
            if keep and step.variant.zoneout_c is not None:
                saved.cells = xp.empty((num_steps, batch, hidden), dtype=c.dtype)
            if keep and step.normed:
                saved.normalised = xp.empty(z.shape, dtype=z.dtype)
                saved.scales, saved.c_means, saved.c_scales = (
                    xp.empty((num_steps, batch, 1), c.dtype) for _ in range(3)
                )
            run = run, _options(backend, step, layout, saved)
        runs.append(run)
        results.append(saved)
    assert layout is not None
    _launch(backend, layout, runs, (np.int32(problems[0][6]),), batch, hidden)
    return results


def _backward(backend: Backend, problems: Sequence[Problem], layout: onchip.Layout | None) -> list[Gradients]:
    """In one launch: one recurrence, or two with the layout for them."""
    xp = backend.xp
    results: list[Gradients] = []
    runs: list[Struct] = []
    for saved, dh, dh_last, dc_last, *rest in problems:
        gates, c, weight_hh = saved.gates, saved.c, saved.weight_hh
        num_steps, batch, hidden, dtype = check(backend, gates, weight_hh, saved.variant)
        cells = _cells("backward", saved.variant, *rest)
        layout = layout or _layout(backend, "backward", batch, hidden, dtype, cells)
        dh_t, dc_t = gradients_at_the_end(backend, (batch, hidden), (batch, hidden), c.dtype, dh_last, dc_last)
        dh = gradients_of_steps(backend, "dh", dh, (num_steps, batch, hidden), dtype)
        # What W_hh is multiplied by; with layer normalisation, that isn't dz.
        normed = cells == "Normed"
        product, shown = saved.normalised if normed else gates, None
        if layout.by_memory:
            product, shown = _handed_on(backend, layout, gates.shape, gates.dtype)
        dz = gates if normed else product
        lengths, steps, reverse = _lengths(backend, saved.mask), np.int64(num_steps), np.bool_(saved.reverse)
        run: Struct = (gates, dz, shown, weight_hh, c, dh, dh_t, dc_t, lengths, steps, reverse)
        if cells != "Plain":
            step = Step(backend, saved.variant or Variant(), gates, weight_hh, saved.mask)
            dc = gradients_of_steps(backend, "dc", rest[0] if rest else None, (num_steps, batch, hidden), str(c.dtype))
            if normed:
                _keep_moments(backend, saved)
                saved.dz_hh = product
                for name, n in (("gain_hh", 4 * hidden), ("gain_c", hidden), ("shift_c", hidden)):
                    saved.gradients[name] = xp.zeros((batch, n), dtype=c.dtype)  # by sequence, so far
            run = run, _options(backend, step, layout, saved, dc)
        runs.append(run)
        results.append((dz, dh_t, dc_t))
    assert layout is not None
    _launch(backend, layout, runs, (), batch, hidden)
    for (saved, *_), (dz, _, _) in zip(problems, results, strict=True):
        saved.gates = dz
        saved.gradients = {name: xp.sum(rows, axis=0) for name, rows in saved.gradients.items()}
        family.parameter_gradients(backend, saved, None)
    return results


def _cells(direction: str, variant: Variant | None, dc: Array | None = None) -> str:
    """What the cells do, of `kernels.SEQUENCE_CELLS`.

    Raises
    ------
    InputError
        The variant has an option that this tier doesn't take.
    """
    options = frozenset() if variant is None else variant.options()
    refuse(bool(options - TAKES), " or ".join(sorted(options - TAKES)))
    return onchip.cells_of(direction, options | ({"cells"} if dc is not None else frozenset()))


def _options(backend: Backend, step: Step, layout: onchip.Layout, saved: Saved, dc: Array | None = None) -> Struct:
    """What the cells take of the options, as ``kernels/cuda/options.cuh`` has it."""
    options = (*step.parameters, *step.arrays, *step.limits, saved.cells, dc)
    if layout.cells != "Normed":
        return options
    handed = None
    if layout.by_memory:
        numbers = 4 * step.num_steps * step.batch * layout.members  # (2, T, B, members, 2)
        _, handed = _handed_on(backend, layout, (numbers,), step.state)
    sums = (saved.gradients.get(name) for name in ("gain_hh", "gain_c", "shift_c"))
    return (*options, saved.normalised, saved.scales, saved.c_means, saved.c_scales, saved.dz_hh, *sums, handed)


def _keep_moments(backend: Backend, saved: Saved) -> None:
    """Those of c at each step, where the tier that ran forward hasn't kept them."""
    if saved.c_means is None:
        after = saved.c[:-1, ...] if saved.reverse else saved.c[1:, ...]
        c = after if saved.cells is None else saved.cells
        saved.c_means = backend.xp.mean(c, axis=-1, keepdims=True)
        saved.c_scales = normalise(backend.xp, c)[1]


def _layout(backend: Backend, direction: str, batch: int, hidden: int, dtype: str, cells: str) -> onchip.Layout:
    device = cast(CudaBackend, backend)
    layout = onchip.choose(device.limits, direction, batch, hidden, onchip.multiplied(device, dtype), 1, cells)
    if isinstance(layout, str):
        raise BackendError(f"tier sequence can't run on backend {backend.name}: {layout}")
    return layout


def _lengths(backend: Backend, mask: Mask | None) -> Array | None:
    return None if mask is None else backend.asarray(mask.lengths, "int64")


def _handed_on(
    backend: Backend, layout: onchip.Layout, shape: tuple[int, ...], dtype: Any, apart: bool = False
) -> tuple[Array, Array | None]:
    """An array for h or dz, and what the blocks of a grid look at, None where there is none.

    There, all bits are set in numbers that are not there yet, a NaN that no arithmetic gives. It is the same array
    where rows are whole accesses of 16 bytes, unless it is to be another one; else rows of another are, with zeros at
    their ends.
    """
    xp = backend.xp
    if not layout.by_memory:
        return xp.empty(shape, dtype=dtype), None
    width, item = shape[-1], np.dtype(dtype).itemsize
    wide = -(-width * item // 16) * 16 // item
    bits = xp.full((*shape[:-1], wide), 2 ** (8 * item) - 1, dtype=np.dtype(f"uint{8 * item}"))
    if wide > width:
        bits[..., width:] = 0
    shown = bits.view(dtype)
    return (shown if wide == width and not apart else xp.empty(shape, dtype=dtype)), shown


def _launch(
    backend: Backend, layout: onchip.Layout, runs: list[Struct], flags: tuple[Any, ...], batch: int, hidden: int
) -> None:
    """Launch with what each recurrence takes; those that a launch could have besides are all null."""
    runs = runs + [_none(runs[0])] * (MOST_RUNS - len(runs))
    watched = layout.form != "block" and kernels.watchdog() > 0
    gave_up = backend.xp.zeros((layout.together * layout.teams,), dtype=backend.xp.uint32) if watched else None
    kernel = kernels.sequence(layout.direction, layout.dtype, layout.form, layout.height, layout.columns, layout.cells)
    sizes = batch, hidden, layout.members, layout.share, layout.slice, layout.split, layout.pitch, layout.buffers
    backend.kernel(kernel)(
        (layout.blocks,),
        (kernels.sequence_threads(layout.dtype, layout.cells),),
        (tuple(runs), gave_up, *flags, tuple(map(np.uint32, sizes))),
        layout.shared_bytes,
    )
    if gave_up is not None and backend.to_numpy(gave_up).any():
        raise BackendError(
            f"CUDA kernel {kernel.expression} waited in vain: blocks gave up after {kernels.WATCHDOG}="
            f"{kernels.watchdog()} looks ({layout.describe()})"
        )


def _none(field: Any) -> Any:
    """The same with null pointers and zeros."""
    if isinstance(field, tuple):
        return tuple(map(_none, field))
    return type(field)(0) if isinstance(field, np.generic) else None
