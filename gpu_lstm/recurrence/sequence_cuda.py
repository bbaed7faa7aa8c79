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
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.recurrence import onchip
from gpu_lstm.recurrence.contract import Joint, Mask, Saved, refuse
from gpu_lstm.recurrence.pointwise_cuda import check, check_z
from gpu_lstm.recurrence.starts import gradients_at_the_end, gradients_of_steps, states_at_the_start
from gpu_lstm.recurrence.together import Gradients, Problem
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


def layers_at_once(backend: Backend, direction: str, batch: int, hidden: int, dtype: str, layers: int) -> int:
    """How many of so many layers, "forward" or "backward", are expected to take the least time in one launch."""
    device = cast(CudaBackend, backend)
    layout = onchip.choose_layers(device.limits, direction, batch, hidden, onchip.multiplied(device, dtype), layers)
    return 1 if isinstance(layout, str) else layout.together


def forward_stack(backend: Backend, problems: Sequence[Problem], joints: Sequence[Joint]) -> list[Saved]:
    """`forward` of layers of a stack in one launch; see `gpu_lstm.recurrence.contract`.

    Raises
    ------
    InputError
        An array has another dtype, shape or device, has gaps, or is too large; or there are too many layers.
    BackendError
        The weights of all layers don't fit on chip, or the device can't keep all blocks resident.
    """
    beyond = [problem[5] or any(more is not None for more in problem[7:]) for problem in problems]
    _check_stack(problems, joints, any(beyond))
    _, batch, hidden, dtype = check(backend, *problems[0][:2])
    return _forward(backend, problems, _layout(backend, "forward", batch, hidden, dtype, len(problems)), joints)


def backward_stack(backend: Backend, problems: Sequence[Problem], joints: Sequence[Joint]) -> list[Gradients]:
    """`backward` of each, likewise."""
    beyond = [problem[0].reverse or any(more is not None for more in problem[4:]) for problem in problems]
    _check_stack(problems, joints, any(beyond))
    _, batch, hidden, dtype = check_z(backend, problems[0][0].gates)
    return _backward(backend, problems, _layout(backend, "backward", batch, hidden, dtype, len(problems)), joints)


def _check_stack(problems: Sequence[Problem], joints: Sequence[Joint], beyond: bool) -> None:
    refuse(beyond, "stack of variants, in reverse, or with gradients of c at every step")
    if not 2 <= len(problems) == len(joints) + 1 <= onchip.MOST_RUNS:
        raise InputError(
            f"a stack of {len(problems)} layers has {len(joints)} joints; expected one fewer than layers, and at most "
            f"{onchip.MOST_RUNS} layers"
        )


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


def _forward(
    backend: Backend, problems: Sequence[Problem], layout: onchip.Layout | None, joints: Sequence[Joint] = ()
) -> list[Saved]:
    """In one launch: one recurrence, or several with the layout for them."""
    xp = backend.xp
    results: list[Saved] = []
    runs: list[Struct] = []
    stack = None
    for number, (z, weight_hh, h0, c0, mask, reverse, keep, *_) in enumerate(problems):
        above, below = (joints[n] if 0 <= n < len(joints) else None for n in (number, number - 1))
        num_steps, batch, hidden, dtype = check(backend, problems[0][0] if below else z, weight_hh)
        layout = layout or _layout(backend, "forward", batch, hidden, dtype)
        shape, wide = (num_steps + 1, batch, hidden), backend.dtype(kernels.ARITHMETIC[dtype])
        if below and keep:
            z = xp.empty((num_steps, batch, 4 * hidden), dtype=weight_hh.dtype)
        if joints:
            stack = _handed_up(backend, layout, shape, weight_hh.dtype) if stack is None else stack
            h, shown = xp.empty(shape, dtype=weight_hh.dtype), stack[number, ...]
        else:
            h, shown = _handed_on(backend, layout, shape, z.dtype)
        c = xp.empty((num_steps + 1 if keep else 1, batch, hidden), dtype=wide)
        states_at_the_start(h, c, h0, c0, reverse)
        first = -1 if reverse else 0
        if shown is not None and h0 is not None:
            _say_that_it_is_there(xp, h[first, ...])
        if shown is not None and shown is not h:
            shown[first, :, :hidden] = h[first, ...]
        runs.append(
            (
                *(z, weight_hh, h, shown if stack is None else stack[number:, ...], c, _lengths(backend, mask)),
                *(np.int64(num_steps), np.bool_(reverse), np.uint32(0 if shown is None else shown.shape[2])),
                _forward_joints(backend, shape, dtype, above, below, 0 if stack is None else stack.shape[3]),
            )
        )
        results.append(Saved(h, c, z, weight_hh, mask, reverse))
    assert layout is not None
    _launch(backend, layout, runs, (np.int32(problems[0][6]),), batch, hidden)
    return results


def _forward_joints(
    backend: Backend, shape: tuple[int, ...], dtype: str, above: Joint | None, below: Joint | None, row: int
) -> Struct:
    """What a layer has of its joints: h is (T + 1, B, H), shown in rows of `row` elements."""
    slots, batch, hidden = shape
    weight_ih = bias = None
    if below:
        weight_ih, bias = below.weight_ih, below.bias
        backend.require("weight_ih", weight_ih, (4 * hidden, hidden), dtype)
        wide = kernels.ARITHMETIC[dtype]
        if bias is None:
            bias = backend.xp.zeros((4 * hidden,), dtype=backend.dtype(wide))
        backend.require("bias", bias, (4 * hidden,), wide)
    # From the slot after a step to the other half of the row that the layer above multiplies in it.
    following = (slots - 1) * batch * row + row // 2 if above else 0
    return weight_ih, bias, _factors(backend, above, shape, dtype), np.int64(following)


def _factors(backend: Backend, joint: Joint | None, shape: tuple[int, ...], dtype: str) -> Array | None:
    if joint is None or joint.factors is None:
        return None
    return backend.require("factors", joint.factors, (shape[0] - 1, *shape[1:]), dtype)


def _backward(
    backend: Backend, problems: Sequence[Problem], layout: onchip.Layout | None, joints: Sequence[Joint] = ()
) -> list[Gradients]:
    """In one launch: one recurrence, or several with the layout for them."""
    results: list[Gradients] = []
    runs: list[Struct] = []
    stack = None
    for number, (saved, dh, dh_last, dc_last, *_) in enumerate(problems):
        gates, c, weight_hh = saved.gates, saved.c, saved.weight_hh
        above = joints[number] if number < len(joints) else None
        num_steps, batch, hidden, dtype = check(backend, gates, weight_hh)
        layout = layout or _layout(backend, "backward", batch, hidden, dtype)
        dh_t, dc_t = gradients_at_the_end(backend, (batch, hidden), (batch, hidden), c.dtype, dh_last, dc_last)
        dh = gradients_of_steps(backend, "dh", dh, (num_steps, batch, hidden), dtype)
        dz, shown, row, following = gates, None, 0, 0
        slots = num_steps + 1, batch, hidden
        if joints:
            if stack is None:
                stack = _handed_up(backend, layout, (*slots[:2], 4 * hidden), gates.dtype)
                stack[:, -1, :, : stack.shape[3] // 2] = 0  # no step is there
                stack[:, 0, :, stack.shape[3] // 2 :] = 0
            shown, row = stack[number:, ...], stack.shape[3]
            # From the slot of a step to the other half of the row that the layer below multiplies in it.
            following = row // 2 - num_steps * batch * row if number > 0 else 0
        elif layout.form == "grid":
            dz, shown = _handed_on(backend, layout, gates.shape, gates.dtype)
            row = 0 if shown is None else shown.shape[2]
        weight_ih = backend.require("weight_ih", above.weight_ih, (4 * hidden, hidden), dtype) if above else None
        runs.append(
            (
                *(gates, dz, shown, weight_hh, c, dh, dh_t, dc_t, _lengths(backend, saved.mask)),
                *(np.int64(num_steps), np.bool_(saved.reverse), np.uint32(row)),
                (weight_ih, _factors(backend, above, slots, dtype), np.int64(following)),
            )
        )
        results.append((dz, dh_t, dc_t))
    assert layout is not None
    _launch(backend, layout, runs, (), batch, hidden)
    return results


def _layout(backend: Backend, direction: str, batch: int, hidden: int, dtype: str, layers: int = 1) -> onchip.Layout:
    device = cast(CudaBackend, backend)
    multiplied = onchip.multiplied(device, dtype)
    layout = onchip.choose(device.limits, direction, batch, hidden, multiplied, layers, layers > 1)
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
    if layout.form != "grid":
        return backend.xp.empty(shape, dtype=dtype), None
    width = shape[-1]
    wide = _whole(width, 16, dtype)
    shown = _missing(backend, (*shape[:-1], wide), width, dtype)
    return (shown if wide == width else backend.xp.empty(shape, dtype=dtype)), shown


def _handed_up(backend: Backend, layout: onchip.Layout, shape: tuple[int, ...], dtype: Any) -> Array:
    """The same of all layers of a stack, whose rows have two such parts: the layer's own, and another one's."""
    *rows, width = shape
    half = _whole(width, 64 if layout.dtype in kernels.TENSOR else 16, dtype)
    both = _missing(backend, (layout.together, *rows, 2, half), width, dtype)
    return backend.xp.reshape(both, (layout.together, *rows, 2 * half))


def _whole(width: int, size: int, dtype: Any) -> int:
    """Elements that fill whole accesses of that many bytes."""
    item: int = np.dtype(dtype).itemsize
    return -(-width * item // size) * size // item


def _missing(backend: Backend, shape: tuple[int, ...], width: int, dtype: Any) -> Array:
    """Rows of `width` numbers that are not there yet, and zeros."""
    bits = backend.xp.full(shape, _most(dtype), dtype=_most(dtype).dtype)
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
    backend: Backend, layout: onchip.Layout, runs: list[Struct], flags: tuple[Any, ...], batch: int, hidden: int
) -> None:
    """Launch with what each recurrence takes; those that a launch could have besides are all null."""
    runs = runs + [_nothing(runs[0])] * (onchip.MOST_RUNS - len(runs))
    watched = layout.form == "grid" and kernels.watchdog() > 0
    gave_up = backend.xp.zeros((layout.together * layout.teams,), dtype=backend.xp.uint32) if watched else None
    kernel = kernels.sequence(layout.direction, layout.dtype, layout.form, layout.height, layout.columns)
    sizes = batch, hidden, layout.members, layout.share, layout.slice, layout.split, layout.pitch
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


def _nothing(field: Any) -> Any:
    """Zeros and null pointers in its place."""
    if isinstance(field, tuple):
        return tuple(map(_nothing, field))
    return type(field)(0) if isinstance(field, np.generic) else None
