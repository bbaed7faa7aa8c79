"""The sequence tier on a GPU: all steps in one launch, W_hh on chip (``kernels/cuda/sequence.cu``).

`gpu_lstm.recurrence.cuda.layout` plans the layout for each batch size. float16 and bfloat16 arrays are taken, too: c
and its gradient, the gradient of h, and all sums are float32 then. float32 is multiplied in TF32 where the backend
says so.

Options of the LSTM family are taken by kernels of their own, all of them by the same; but no projection, which would be
a second product on chip, with another matrix and another wait for all blocks in each step, and no heads, which need
another W_hh: those stay with the pointwise tier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.native import catalogue, kernels
from gpu_lstm.native.kernels import Struct
from gpu_lstm.recurrence import family
from gpu_lstm.recurrence.cuda import planner
from gpu_lstm.recurrence.cuda.beside import beside
from gpu_lstm.recurrence.cuda.checks import check, check_saved, check_z, gradients_of_steps
from gpu_lstm.recurrence.cuda.explain import words
from gpu_lstm.recurrence.cuda.family import StepArguments
from gpu_lstm.recurrence.cuda.layout import MOST_RUNS, Layout
from gpu_lstm.recurrence.problem import Arriving, Gradients, Joint, Mask, Problem, Saved, begin, gradients_at_the_end
from gpu_lstm.recurrence.tier import Fit, Offer, Tier
from gpu_lstm.recurrence.variant import OPTIONS, Variant, normalise, refuse

TAKES = OPTIONS - {"proj_size", "heads"}


def obstacle(backend: CudaBackend, hidden: int | None, dtype: str, options: frozenset[str]) -> str:
    """Why no layout fits, for that H or for any, whatever the batch; or ""."""
    return planner.obstacle(backend.limits, hidden or 1, planner.multiplied(backend, dtype), options)


def fit(backend: CudaBackend, offer: Offer) -> Fit:
    """How many layers of a stack take the least time in one launch; and, of one layer, whether a launch leaves so many
    multiprocessors idle that products beside it pay."""
    dtype, direction = planner.multiplied(backend, offer.dtype), offer.direction
    if offer.layers > 1:
        layers = planner.choose_layers(backend.limits, direction, offer.batch, offer.hidden, dtype, offer.layers)
        if not isinstance(layers, str):
            return Fit(layers.together)  # which leaves no room
    if not offer.multiply_adds or not offer.options <= TAKES:
        return Fit()
    cells = planner.cells_of(direction, offer.options)
    shape = offer.steps, offer.batch, offer.hidden
    products = beside(backend.limits, direction, shape, dtype, offer.multiply_adds, offer.count, cells)
    return Fit(1, products.saved > 0)


def forward(backend: CudaBackend, problems: Sequence[Problem]) -> list[Saved]:
    """Run recurrences over all steps: a stack, or two of the same size where that pays, in one launch.

    Raises
    ------
    InputError
        An array has another dtype, shape or device, has gaps, or is too large; or there are too many layers.
    BackendError
        The weights don't fit on chip, or the device can't keep all blocks resident.
    """
    if any(problem.below for problem in problems):
        _check_stack(
            [problem.below for problem in problems], [problem.reverse or problem.variant for problem in problems]
        )
        first = problems[0]
        _, batch, hidden, dtype = check(backend, first.z, first.weight_hh)
        return _forward(backend, problems, _layout(backend, "forward", batch, hidden, dtype, "Plain", len(problems)))
    asked = [(problem.z, problem.keep, _cells("forward", problem.variant)) for problem in problems]
    if layout := _pair(backend, "forward", asked):
        return _forward(backend, problems, layout)
    return [_forward(backend, [problem], None)[0] for problem in problems]


def backward(backend: CudaBackend, arriving: Sequence[Arriving]) -> list[Gradients]:
    """Backpropagate through all steps, likewise."""
    if any(one.below for one in arriving):
        beyond = [one.saved.reverse or one.saved.variant or (None if one.dc is None else "dc") for one in arriving]
        _check_stack([one.below for one in arriving], beyond)
        _, batch, hidden, dtype = check_z(backend, arriving[0].saved.gates)
        return _backward(backend, arriving, _layout(backend, "backward", batch, hidden, dtype, "Plain", len(arriving)))
    asked = [(one.saved.gates, True, _cells("backward", one.saved.variant, one.dc)) for one in arriving]
    if layout := _pair(backend, "backward", asked):
        return _backward(backend, arriving, layout)
    return [_backward(backend, [one], None)[0] for one in arriving]


def _check_stack(joints: Sequence[Joint | None], beyond: Sequence[Any]) -> None:
    refuse(any(beyond), "stack of variants, in reverse, or with gradients of c at every step")
    if joints[0] is not None or None in joints[1:] or len(joints) > MOST_RUNS:
        count = sum(joint is not None for joint in joints)
        raise InputError(
            f"a stack of {len(joints)} layers has {count} joints; expected one below each but the first, and at most "
            f"{MOST_RUNS} layers"
        )


def _pair(backend: CudaBackend, direction: str, problems: Sequence[tuple[Array, bool, str]]) -> Layout | None:
    """The layout for two at once; None where they are not two of one kind, or run one after the other.

    Of each: z or the gates, `keep`, and what its cells do.
    """
    if len(problems) != 2:
        return None
    (z, *kind), (other, *other_kind) = problems
    if z.ndim != 3 or z.shape[1:] != other.shape[1:] or z.dtype != other.dtype or kind != other_kind:
        return None
    _, batch, hidden, dtype = check_z(backend, z)
    layout = planner.choose_pair(
        backend.limits, direction, batch, hidden, planner.multiplied(backend, dtype), problems[0][2]
    )
    return None if isinstance(layout, str) else layout


def _forward(backend: CudaBackend, problems: Sequence[Problem], layout: Layout | None) -> list[Saved]:
    """In one launch: one recurrence, or several with the layout for them."""
    xp = backend.xp
    results: list[Saved] = []
    runs: list[Struct] = []
    stack = None
    for number, problem in enumerate(problems):
        z, weight_hh, mask, variant, keep = problem.z, problem.weight_hh, problem.mask, problem.variant, problem.keep
        reverse, below = problem.reverse, problem.below
        above = problems[number + 1].below if number + 1 < len(problems) else None
        cells = _cells("forward", variant)
        num_steps, batch, hidden, dtype = check(backend, problems[0].z if below else z, weight_hh, variant)
        layout = layout or _layout(backend, "forward", batch, hidden, dtype, cells)
        step = None if cells == "Plain" else StepArguments(backend, variant or Variant(), z, weight_hh, mask)
        apart = step is not None and step.masked
        shape = num_steps + 1, batch, hidden
        if below and keep:
            z = xp.empty((num_steps, batch, 4 * hidden), dtype=weight_hh.dtype)
        if layout.stacked:
            stack = _handed_up(backend, layout, shape, weight_hh.dtype) if stack is None else stack
            h, shown = xp.empty(shape, dtype=weight_hh.dtype), stack[number, ...]
        else:
            h, shown = _handed_on(backend, layout, shape, z.dtype, apart)
        c = xp.empty((num_steps + 1 if keep else 1, batch, hidden), dtype=backend.dtype(kernels.ARITHMETIC[dtype]))
        begin(problem, h, c)
        first = -1 if reverse else 0
        if shown is not None and shown is not h:
            h_first = h[first, ...]
            shown[first, :, :hidden] = backend.asarray(step.masked_h(h_first, first), dtype) if step else h_first
        if shown is not None and problem.h0 is not None:
            _say_that_it_is_there(xp, shown[first, :, :hidden])
        saved = Saved(h, c, z, weight_hh, mask, reverse, variant)
        run: Struct = (
            *(z, weight_hh, h, shown if stack is None else stack[number:, ...], c, _lengths(backend, mask)),
            *(np.int64(num_steps), np.bool_(reverse), np.uint32(0 if shown is None else shown.shape[2])),
            _forward_joints(backend, shape, dtype, above, below, 0 if stack is None else stack.shape[3]),
        )
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
    _launch(backend, layout, runs, (np.int32(problems[0].keep),), batch, hidden)
    return results


def _forward_joints(
    backend: CudaBackend, shape: tuple[int, ...], dtype: str, above: Joint | None, below: Joint | None, row: int
) -> Struct:
    """What a layer has of its joints: h is (T + 1, B, H), shown in rows of `row` elements."""
    slots, batch, hidden = shape
    weight_ih = bias = None
    if below:
        weight_ih, bias = _weight_ih(backend, below, hidden, dtype), below.bias
        if bias is None:
            bias = backend.xp.zeros((4 * hidden,), dtype=weight_ih.dtype)
        else:
            backend.require("bias", bias, (4 * hidden,), kernels.ARITHMETIC[dtype])
            bias = backend.xp.ascontiguousarray(backend.asarray(bias, dtype))
    # From the slot after a step to the other half of the row that the layer above multiplies in it.
    following = (slots - 1) * batch * row + row // 2 if above else 0
    return weight_ih, bias, _factors(backend, above, shape, dtype), np.int64(following)


def _factors(backend: CudaBackend, joint: Joint | None, shape: tuple[int, ...], dtype: str) -> Array | None:
    if joint is None or joint.factors is None:
        return None
    backend.require("factors", joint.factors, (shape[0] - 1, *shape[1:]), dtype)
    return backend.xp.ascontiguousarray(joint.factors)


def _weight_ih(backend: CudaBackend, joint: Joint, hidden: int, dtype: str) -> Array:
    backend.require("weight_ih", joint.weight_ih, (f"4H={4 * hidden}", f"H={hidden}"), dtype)
    return backend.xp.ascontiguousarray(joint.weight_ih)


def _backward(backend: CudaBackend, arriving: Sequence[Arriving], layout: Layout | None) -> list[Gradients]:
    """In one launch: one recurrence, or several with the layout for them."""
    xp = backend.xp
    results: list[Gradients] = []
    runs: list[Struct] = []
    stack = None
    for number, one in enumerate(arriving):
        saved, gates, c, weight_hh = one.saved, one.saved.gates, one.saved.c, one.saved.weight_hh
        above = arriving[number + 1].below if number + 1 < len(arriving) else None
        num_steps, batch, hidden, dtype = check_saved(backend, saved)
        if one.below:
            backend.require("gates", gates, arriving[0].saved.gates.shape)
        cells = _cells("backward", saved.variant, one.dc)
        layout = layout or _layout(backend, "backward", batch, hidden, dtype, cells)
        dh_t, dc_t = gradients_at_the_end(backend, one, (batch, hidden), (batch, hidden), c.dtype)
        dh = gradients_of_steps(backend, "dh", one.dh, (num_steps, batch, hidden), dtype)
        # What W_hh is multiplied by; with layer normalisation, that isn't dz.
        normed = cells == "Normed"
        product, shown, row, following = saved.normalised if normed else gates, None, 0, 0
        slots = num_steps + 1, batch, hidden
        if layout.stacked:
            if stack is None:
                stack = _handed_up(backend, layout, (*slots[:2], 4 * hidden), gates.dtype)
                stack[:, -1, :, : stack.shape[3] // 2] = 0  # no step is there
                stack[:, 0, :, stack.shape[3] // 2 :] = 0
            shown, row = stack[number:, ...], stack.shape[3]
            # From the slot of a step to the other half of the row that the layer below multiplies in it.
            following = row // 2 - num_steps * batch * row if number > 0 else 0
        elif layout.by_memory:
            product, shown = _handed_on(backend, layout, gates.shape, gates.dtype)
            row = 0 if shown is None else shown.shape[2]
        dz = gates if normed else product
        weight_ih = _weight_ih(backend, above, hidden, dtype) if above else None
        run: Struct = (
            *(gates, dz, shown, weight_hh, c, dh, dh_t, dc_t, _lengths(backend, saved.mask)),
            *(np.int64(num_steps), np.bool_(saved.reverse), np.uint32(row)),
            (weight_ih, _factors(backend, above, slots, dtype), np.int64(following)),
        )
        if cells != "Plain":
            step = StepArguments(backend, saved.variant or Variant(), gates, weight_hh, saved.mask)
            dc = gradients_of_steps(backend, "dc", one.dc, (num_steps, batch, hidden), str(c.dtype))
            if normed:
                _keep_moments(backend, saved)
                saved.dz_hh = product
                for name, n in (("gain_hh", 4 * hidden), ("gain_c", hidden), ("shift_c", hidden)):
                    saved.gradients[name] = xp.zeros((batch, n), dtype=c.dtype)  # by sequence, so far
            run = run, _options(backend, step, layout, saved, dc)
        runs.append(run)
        results.append(Gradients(dz, dh_t, dc_t))
    assert layout is not None
    _launch(backend, layout, runs, (), batch, hidden)
    for saved, (dz, _, _) in zip([one.saved for one in arriving], results, strict=True):
        saved.gates = dz
        saved.gradients = {name: xp.sum(rows, axis=0) for name, rows in saved.gradients.items()}
        family.parameter_gradients(backend, saved, None)
    return results


def _cells(direction: str, variant: Variant | None, dc: Array | None = None) -> str:
    """What the cells do, of `catalogue.SEQUENCE_CELLS`.

    Raises InputError where the variant has an option that this tier doesn't take.
    """
    options = frozenset() if variant is None else variant.options()
    refuse(bool(options - TAKES), " or ".join(sorted(options - TAKES)))
    return planner.cells_of(direction, options | ({"cells"} if dc is not None else frozenset()))


def _options(
    backend: CudaBackend, step: StepArguments, layout: Layout, saved: Saved, dc: Array | None = None
) -> Struct:
    """What the cells take of the options, as ``kernels/cuda/options.cuh`` has it."""
    options = (step.options, saved.cells, dc)
    if layout.cells != "Normed":
        return options
    handed = None
    if layout.by_memory:
        numbers = 4 * step.num_steps * step.batch * layout.members  # (2, T, B, members, 2)
        _, handed = _handed_on(backend, layout, (numbers,), step.state)
    sums = (saved.gradients.get(name) for name in ("gain_hh", "gain_c", "shift_c"))
    return (*options, saved.normalised, saved.scales, saved.c_means, saved.c_scales, saved.dz_hh, *sums, handed)


def _keep_moments(backend: CudaBackend, saved: Saved) -> None:
    """Those of c at each step, where the tier that ran forward hasn't kept them."""
    if saved.c_means is None:
        c = saved.c_after if saved.cells is None else saved.cells
        saved.c_means = backend.xp.mean(c, axis=-1, keepdims=True)
        saved.c_scales = normalise(backend.xp, c)[1]


def _layout(
    backend: CudaBackend, direction: str, batch: int, hidden: int, dtype: str, cells: str, layers: int = 1
) -> Layout:
    dtype = planner.multiplied(backend, dtype)
    layout = planner.choose(backend.limits, direction, batch, hidden, dtype, layers, cells, layers > 1)
    if isinstance(layout, str):
        raise BackendError(f"tier sequence can't run on backend {backend.name}: {layout}")
    return layout


def _lengths(backend: CudaBackend, mask: Mask | None) -> Array | None:
    return None if mask is None else backend.asarray(mask.lengths, "int64")


def _handed_on(
    backend: CudaBackend, layout: Layout, shape: tuple[int, ...], dtype: Any, apart: bool = False
) -> tuple[Array, Array | None]:
    """An array for h or dz, and what the blocks of a grid look at, None where there is none.

    There, all bits are set in numbers that are not there yet, a NaN that no arithmetic gives. It is the same array
    where rows are whole accesses of 16 bytes, unless it is to be another one; else rows of another are, with zeros at
    their ends.
    """
    if not layout.by_memory:
        return backend.xp.empty(shape, dtype=dtype), None
    width = shape[-1]
    wide = _whole(width, 16, dtype)
    shown = _missing(backend, (*shape[:-1], wide), width, dtype)
    return (shown if wide == width and not apart else backend.xp.empty(shape, dtype=dtype)), shown


def _handed_up(backend: CudaBackend, layout: Layout, shape: tuple[int, ...], dtype: Any) -> Array:
    """The same of all layers of a stack, whose rows have two such parts: the layer's own, and another one's."""
    *rows, width = shape
    half = _whole(width, 64, dtype)
    both = _missing(backend, (layout.together, *rows, 2, half), width, dtype)
    return backend.xp.reshape(both, (layout.together, *rows, 2 * half))


def _whole(width: int, size: int, dtype: Any) -> int:
    """Elements that fill whole accesses of that many bytes."""
    item: int = np.dtype(dtype).itemsize
    return -(-width * item // size) * size // item


def _missing(backend: CudaBackend, shape: tuple[int, ...], width: int, dtype: Any) -> Array:
    """Rows of `width` numbers that are not there yet, and zeros."""
    bits = backend.xp.full(shape, _most(dtype), dtype=_most(dtype).dtype)
    if shape[-1] > width:
        bits[..., width:] = 0
    return bits.view(dtype)


def _say_that_it_is_there(xp: Any, numbers: Array) -> None:
    """NaNs that look as if they were missing become others."""
    most = _most(numbers.dtype)
    bits = numbers.view(most.dtype)
    xp.minimum(bits, most - most.dtype.type(1), out=bits)


def _most(dtype: Any) -> Any:
    """All bits set, as a number as wide as those of `dtype`."""
    return np.dtype(f"uint{8 * np.dtype(dtype).itemsize}").type(-1 % 2 ** (8 * np.dtype(dtype).itemsize))


def _launch(
    backend: CudaBackend, layout: Layout, runs: list[Struct], flags: tuple[Any, ...], batch: int, hidden: int
) -> None:
    """Launch with what each recurrence takes; those that a launch could have besides are null."""
    watched = layout.form != "block" and kernels.watchdog() > 0
    gave_up = backend.xp.zeros((layout.together * layout.teams,), dtype=backend.xp.uint32) if watched else None
    sizes = batch, hidden, layout.members, layout.share, layout.slice, layout.split, layout.pitch, layout.buffers
    backend.kernel(layout.kernel)(
        (layout.blocks,),
        (catalogue.SEQUENCE_THREADS,),
        (kernels.Several(runs, MOST_RUNS), gave_up, *flags, tuple(map(np.uint32, sizes))),
        layout.shared_bytes,
    )
    if gave_up is not None and backend.to_numpy(gave_up).any():
        raise BackendError(
            f"CUDA kernel {layout.kernel.expression} waited in vain: blocks gave up after {kernels.WATCHDOG}="
            f"{kernels.watchdog()} looks ({words(layout)})"
        )


TIER = Tier(TAKES, obstacle, fit, forward, backward)
