"""The LSTM family on a GPU, step by step: every option of `Variant` in the kernels of ``kernels/cuda/family.cu``.

A step is one product by cuBLAS and one kernel, forward and backward; a projection adds one product and, where more
than that happens to h, one kernel. All memory is there before the loop starts, and nothing waits for the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm.backend import Array, Backend, kernels
from gpu_lstm.errors import InputError
from gpu_lstm.recurrence import family
from gpu_lstm.recurrence.contract import Mask, Saved, slots
from gpu_lstm.recurrence.starts import gradients_at_the_end, gradients_of_steps, states_at_the_start
from gpu_lstm.recurrence.variant import EPSILON, Variant, split_heads

_PRECISION = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-13, "bfloat16": 2.0**-10}
"""What `family.cell_numbers` takes; an eighth of the spacing of 16-bit numbers, which are rounded once, in memory."""


def forward(
    backend: Backend,
    z: Array,
    weight_hh: Array,
    h0: Array | None,
    c0: Array | None,
    mask: Mask | None,
    reverse: bool,
    keep: bool,
    variant: Variant,
) -> Saved:
    """Run the recurrence over all steps; see `gpu_lstm.recurrence.family.forward`."""
    xp, step = backend.xp, _Step(backend, variant, z, weight_hh, mask)
    num_steps, batch, hidden, size, state = step.num_steps, step.batch, step.hidden, step.size, step.state
    kept = num_steps if keep else 1
    h = xp.empty((num_steps + 1, batch, size), dtype=z.dtype)
    c = xp.empty((num_steps + 1 if keep else 1, batch, hidden), dtype=state)
    states_at_the_start(h, c, h0, c0, reverse)
    saved = Saved(h, c, z, weight_hh, mask, reverse, variant)
    if variant.zoneout_c is not None and keep:
        saved.cells = xp.empty((num_steps, batch, hidden), dtype=state)
    if variant.projection is not None:
        saved.unprojected = xp.empty((kept, batch, hidden), dtype=z.dtype)
    if step.normed and keep:
        saved.normalised = xp.empty(z.shape, dtype=z.dtype)
        saved.scales = xp.empty((num_steps, batch, 1), dtype=state)
    masked = variant.recurrent_mask is not None or variant.live is not None
    seen = xp.empty((batch, size), dtype=z.dtype) if masked else None
    product = step.product_memory() if step.normed or variant.heads > 1 else None
    projected = None
    if variant.projection is not None and (masked or variant.zoneout_h is not None or mask is not None):
        projected = xp.empty((batch, size), dtype=state)
    after_h = (h, variant.zoneout_h, variant.recurrent_mask)
    in_cell = after_h if variant.projection is None else (None, None, None)
    width = step.neighbours(z, product, c, saved.cells, saved.unprojected, *step.arrays(*in_cell), seen)
    cell = backend.kernel(kernels.family_gates("forward", step.dtype, width, step.normed))
    geometry = step.rows(hidden) if step.normed else step.cells(hidden // width)
    of_h, zoneout_h, recurrent_mask = in_cell
    fixed = (
        z, product, c, saved.cells, saved.unprojected, of_h, variant.peepholes, variant.gain_hh, variant.gain_c,
        variant.shift_c, saved.normalised, saved.scales, *step.arrays(zoneout_h, variant.zoneout_c), recurrent_mask,
        variant.live, step.lengths, step.share(zoneout_h), step.share(variant.zoneout_c), *step.options, np.int32(keep),
        *step.sizes,
    )  # fmt: skip
    in_cell_seen = seen if variant.projection is None else None
    finish: Any = None
    if projected is not None:
        finish = backend.kernel(kernels.finish_h(step.dtype)), step.cells(size), (
            projected, h, *step.arrays(variant.zoneout_h), variant.recurrent_mask, variant.live, step.lengths,
            step.share(variant.zoneout_h), np.uint32(batch), np.uint32(size),
        )  # fmt: skip
    weight_t = step.weight_t()
    projection_t = None if variant.projection is None else variant.projection.T
    h_by_head, seen_by_head = step.by_head(h), step.by_head(seen)
    order, numbers = slots(num_steps, reverse), step.numbers
    if seen is not None:
        first_t, first, _ = order[0]
        seen[...] = h[first]
        for factor in (variant.recurrent_mask, None if variant.live is None else variant.live[first_t]):
            if factor is not None:
                seen *= factor
    for (t, before, after), (following, _, _) in zip(order, [*order[1:], (0, 0, 0)], strict=True):
        last = t == order[-1][0]
        backend.matmul(
            h_by_head[before] if seen is None else seen_by_head,
            weight_t,
            out=z[t] if product is None else product,
            add=product is None,
        )
        where = numbers[t], numbers[following], numbers[before], numbers[after]
        cell(*geometry, (*fixed, None if last else in_cell_seen, *where))
        if projection_t is not None:
            m = saved.unprojected[t if keep else 0]
            backend.matmul(m, projection_t, out=h[after] if projected is None else projected)
        if finish is not None:
            kernel, blocks, arguments = finish
            kernel(*blocks, (*arguments, None if last else seen, *where))
    return saved


def backward(
    backend: Backend,
    saved: Saved,
    dh: Array | None,
    dh_last: Array | None,
    dc_last: Array | None,
    dc: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Backpropagate through all steps; see `gpu_lstm.recurrence.family.backward`."""
    variant = saved.variant or Variant()
    xp, gates, c = backend.xp, saved.gates, saved.c
    step = _Step(backend, variant, gates, saved.weight_hh, saved.mask)
    num_steps, batch, hidden, size, state = step.num_steps, step.batch, step.hidden, step.size, step.state
    dh_t, dc_t = gradients_at_the_end(backend, (batch, size), (batch, hidden), state, dh_last, dc_last)
    dh = gradients_of_steps(backend, "dh", dh, (num_steps, batch, size), step.dtype)
    dc = gradients_of_steps(backend, "dc", dc, (num_steps, batch, hidden), step.dtype)
    kept = None
    if variant.zoneout_h is not None or saved.mask is not None:
        kept = xp.zeros((batch, size), dtype=state)
    projection = variant.projection
    projected: Any = None
    dm = xp.empty((batch, hidden), dtype=state) if step.normed or projection is not None else None
    if projection is not None:
        projected = xp.empty((num_steps, batch, size), dtype=gates.dtype)
    by_head: Any = None
    if variant.heads > 1:
        by_head = xp.empty((variant.heads, batch, 4 * hidden // variant.heads), dtype=gates.dtype)
    sums: list[Array] = [None] * 3
    if step.normed:
        sums = [xp.zeros((batch, n), dtype=state) for n in (4 * hidden, hidden, hidden)]
    around = dh, dh_t, kept, variant.zoneout_h, variant.recurrent_mask
    in_cell = around if projection is None else (None,) * 5
    in_dy, in_dh, in_kept, zoneout_h, recurrent_mask = in_cell
    width = step.neighbours(gates, by_head, c, saved.cells, dm, dc, dc_t, *step.arrays(*in_cell))
    cell = backend.kernel(kernels.family_gates("backward", step.dtype, width, step.normed))
    geometry = step.rows(hidden) if step.normed else step.cells(hidden // width)
    fixed = (
        gates, by_head, c, saved.cells, dm, in_dy, dc, in_dh, in_kept, dc_t, variant.peepholes, variant.gain_hh,
        variant.gain_c, variant.shift_c, saved.normalised, saved.scales, *sums,
        *step.arrays(zoneout_h, variant.zoneout_c), recurrent_mask, variant.live, step.lengths, step.share(zoneout_h),
        step.share(variant.zoneout_c), *step.options, np.int32(projection is not None), *step.sizes,
    )  # fmt: skip
    begin: Any = None
    if projection is not None:
        begin = backend.kernel(kernels.begin_dh(step.dtype)), step.cells(size), (
            projected, dh, dh_t, kept, *step.arrays(variant.zoneout_h), variant.recurrent_mask, variant.live,
            step.lengths, step.share(variant.zoneout_h), np.uint32(batch), np.uint32(size),
        )  # fmt: skip
    product = saved.normalised if step.normed else gates
    weight = split_heads(xp, saved.weight_hh, variant.heads) if variant.heads > 1 else saved.weight_hh
    out = step.by_head(dh_t)
    numbers, done = step.numbers, np.int64(-1)
    for t, before, after in reversed(slots(num_steps, saved.reverse)):
        if begin is not None:
            kernel, blocks, arguments = begin
            kernel(*blocks, (*arguments, numbers[t], done))
            backend.matmul(projected[t], projection, out=dm)
        cell(*geometry, (*fixed, numbers[t], done, numbers[before], numbers[after]))
        backend.matmul(product[t] if by_head is None else by_head, weight, out=out)
        done = numbers[t]
    # dh_t is dz W_hh of the first step: as on the way from any other step, the factors on h and what passed by.
    for factor in (variant.recurrent_mask, None if variant.live is None else variant.live[int(done)]):
        if factor is not None:
            dh_t *= factor
    if kept is not None:
        dh_t += kept
    if step.normed:
        saved.dz_hh = saved.normalised  # it was overwritten
        totals = (xp.sum(rows, axis=0) for rows in sums)
        saved.gradients |= dict(zip(("gain_hh", "gain_c", "shift_c"), totals, strict=True))
    if projected is not None:
        rows = xp.reshape(projected, (-1, size)).T
        saved.gradients["weight_hr"] = backend.product(rows, xp.reshape(saved.unprojected, (-1, hidden)))
    family.parameter_gradients(backend, saved, None)
    return gates, dh_t, dc_t


class _Step:
    """What forward and backward of a step share: sizes, checked arrays, arguments of the kernels.

    Attributes
    ----------
    size : int
        P, that of h.
    state : dtype
        Of c, of gradients of states and of sums.
    normed : bool
        With layer normalisation.
    options, sizes : tuple
        Arguments of both kernels: the cell's options; heads, B and H.
    numbers : list
        0..T as the kernels take them.
    """

    def __init__(self, backend: Backend, variant: Variant, z: Array, weight_hh: Array, mask: Mask | None):
        self.backend, self.variant, self.weight_hh = backend, variant, weight_hh
        self.num_steps, self.batch, width = z.shape
        self.hidden, self.dtype = width // 4, str(z.dtype)
        self.size = self.hidden if variant.projection is None else variant.projection.shape[0]
        self.state = backend.dtype(kernels.ARITHMETIC[self.dtype])
        self.normed = variant.gain_hh is not None
        self._check()
        self.lengths = None if mask is None else backend.asarray(mask.lengths, "int64")
        limits = family.cell_numbers(variant, _PRECISION[self.dtype])
        self.options = (
            *(self._number(limit) for limit in (*limits, EPSILON)),
            np.int32(variant.coupled),
            np.int32(variant.hard_sigmoid),
        )
        self.sizes = tuple(np.uint32(n) for n in (variant.heads, self.batch, self.hidden))
        self.numbers = [np.int64(n) for n in range(self.num_steps + 1)]

    def _check(self) -> None:
        """Refuse what the kernels can't take."""
        variant, gates = self.variant, f"4H={4 * self.hidden}"
        steps, batch, hidden, size = (
            f"{name}={n}" for name, n in zip("TBHP", (self.num_steps, self.batch, self.hidden, self.size), strict=True)
        )
        shapes = {
            "projection": (size, hidden),
            "peepholes": (3, hidden),
            "gain_hh": (gates,),
            "gain_c": (hidden,),
            "shift_c": (hidden,),
            "zoneout_h": (steps, batch, size),
            "zoneout_c": (steps, batch, hidden),
            "recurrent_mask": (batch, size),
            "live": (steps, batch, 1),
        }
        for name, shape in shapes.items():
            array = getattr(variant, name)
            if array is None or isinstance(array, float):
                continue
            self.backend.require(name, array, shape, self.dtype)
            if not array.flags.c_contiguous:
                raise InputError(f"{name} is not C-contiguous; expected an array without gaps (xp.ascontiguousarray)")
        if self.normed != (variant.gain_c is not None) or self.normed != (variant.shift_c is not None):
            raise InputError("gain_hh, gain_c and shift_c go together; expected all three or none")

    def _number(self, value: float) -> Any:
        return np.dtype(kernels.ARITHMETIC[self.dtype]).type(value)

    def arrays(self, *values: Any) -> tuple[Array | None, ...]:
        """Those that are arrays, and null for the others."""
        return tuple(None if isinstance(value, float) else value for value in values)

    def share(self, value: Any) -> Any:
        """The zoneout that is one number; 0 where there is none or it is an array."""
        return self._number(value if isinstance(value, float) else 0.0)

    def product_memory(self) -> Array:
        """For h W_hh^T of one step, head by head."""
        heads = self.variant.heads
        shape = (self.batch, 4 * self.hidden) if heads == 1 else (heads, self.batch, 4 * self.hidden // heads)
        return self.backend.xp.empty(shape, dtype=self.state)

    def weight_t(self) -> Array:
        """W_hh^T, or that of each head, as `Backend.matmul` takes it."""
        heads, xp = self.variant.heads, self.backend.xp
        return self.weight_hh.T if heads == 1 else xp.matrix_transpose(split_heads(xp, self.weight_hh, heads))

    def by_head(self, states: Array | None) -> Any:
        """(..., B, P) as (..., heads, B, P / heads), a view; as it is where there is one head."""
        heads, xp = self.variant.heads, self.backend.xp
        if heads == 1 or states is None:
            return states
        *steps, batch, size = states.shape
        parts = xp.reshape(states, (*steps, batch, heads, size // heads))
        return xp.permute_dims(parts, (0, 2, 1, 3) if steps else (1, 0, 2))

    def neighbours(self, *arrays: Array | None) -> int:
        """Units a thread takes: as many as fill 16 bytes, or one where rows or arrays don't start at such places."""
        variant, width = self.variant, kernels.neighbours(self.dtype)
        given = [array for array in (*arrays, *self.arrays(variant.zoneout_c)) if array is not None]
        fits = (self.hidden // variant.heads) % width == 0 and kernels.aligned(16, *given)
        return width if fits and not self.normed else 1

    def cells(self, units: int) -> tuple[tuple[int], tuple[int]]:
        """Grid and block with a thread for each of so many items a sequence."""
        return (-(-self.batch * units // kernels.BLOCK),), (kernels.BLOCK,)

    def rows(self, width: int) -> tuple[tuple[int], tuple[int]]:
        """Grid and block with a block for each sequence, of whole warps."""
        return (self.batch,), (min(-(-width // 32) * 32, kernels.BLOCK),)
