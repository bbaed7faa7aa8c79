"""The LSTM family on a GPU, step by step: every option of `Variant` in the kernels of ``kernels/cuda/family.cu``.

A step is one product by cuBLAS and one kernel, forward and backward; a projection adds one product and, where more
than that happens to h, one kernel. All memory is there before the loop starts, and nothing waits for the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, widened
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.native import catalogue, kernels
from gpu_lstm.recurrence import family, packed
from gpu_lstm.recurrence.cuda.checks import gradients_of_steps
from gpu_lstm.recurrence.problem import Arriving, Gradients, Mask, Problem, Saved, begin, gradients_at_the_end, slots
from gpu_lstm.recurrence.variant import Variant, split_heads


def forward(backend: CudaBackend, problem: Problem) -> Saved:
    """Run the recurrence over all steps; see `gpu_lstm.recurrence.family.forward`."""
    variant, z, mask, keep, reverse = problem.variant, problem.z, problem.mask, problem.keep, problem.reverse
    assert variant is not None
    weight_hh = problem.weight_hh
    xp, step = backend.xp, StepArguments(backend, variant, z, weight_hh, mask)
    num_steps, batch, hidden, size = step.num_steps, step.batch, step.hidden, step.size
    projection, normed = variant.projection, step.normed
    kept = num_steps if keep else 1
    h = xp.empty((num_steps + 1, batch, size), dtype=z.dtype)
    c = xp.empty((num_steps + 1 if keep else 1, batch, hidden), dtype=step.state)
    begin(problem, h, c)
    saved = Saved(h, c, z, weight_hh, mask, reverse, variant)
    if variant.zoneout_c is not None and keep:
        saved.cells = xp.empty((num_steps, batch, hidden), dtype=step.state)
    if projection is not None:
        saved.unprojected = xp.empty((kept, batch, hidden), dtype=z.dtype)
    if normed and keep:
        saved.normalised = xp.empty(z.shape, dtype=z.dtype)
        saved.scales = xp.empty((num_steps, batch, 1), dtype=step.state)
    order, numbers = slots(num_steps, reverse), step.numbers
    seen = product = projected = None
    if step.masked:
        t, first, _ = order[0]
        seen = backend.asarray(step.masked_h(h[first], t), step.dtype)
    if normed or variant.heads > 1:
        product = xp.empty(step.product_shape, dtype=step.state)
    if projection is not None and (step.masked or variant.zoneout_h is not None or mask is not None):
        projected = xp.empty((batch, size), dtype=step.state)
    width = step.neighbours(z, product, c, saved.cells, saved.unprojected, h, seen)
    cell = backend.kernel(catalogue.kernel("family_cells_forward", step.dtype, width, normed))
    finish = None if projected is None else backend.kernel(catalogue.kernel("finish_h", step.dtype))
    cell_grid, finish_grid = step.grid_of_cells(width), step.grid(size)
    in_cell = (
        z, product, c, saved.cells, saved.unprojected, h, saved.normalised, saved.scales, step.options,
        step.lengths, np.int32(keep), *step.sizes,
    )  # fmt: skip
    in_finish = projected, h, *step.of_h
    h_by_head, seen_by_head = step.by_head(h), step.by_head(seen)
    weight_t = step.weight.T if variant.heads == 1 else xp.permute_dims(step.weight, (0, 2, 1))
    for (t, before, after), (following, _, _) in zip(order, [*order[1:], (0, 0, 0)], strict=True):
        h_seen = h_by_head[before] if seen is None else seen_by_head
        backend.matmul(h_seen, weight_t, out=z[t] if product is None else product, add=product is None)
        where = numbers[t], numbers[following], numbers[before], numbers[after]
        to_see = None if t == order[-1][0] else seen
        cell(*cell_grid, (*in_cell, to_see, *where))
        if projection is not None:
            m = saved.unprojected[t if keep else 0]
            backend.matmul(m, projection.T, out=h[after] if projected is None else projected)
        if finish is not None:
            finish(*finish_grid, (*in_finish, to_see, *where))
    return saved


def backward(backend: CudaBackend, arriving: Arriving) -> Gradients:
    """Backpropagate through all steps; see `gpu_lstm.recurrence.family.backward`."""
    saved = arriving.saved
    variant = saved.variant or Variant()
    xp, gates, c, projection = backend.xp, saved.gates, saved.c, variant.projection
    step = StepArguments(backend, variant, gates, saved.weight_hh, saved.mask)
    num_steps, batch, hidden, size = step.num_steps, step.batch, step.hidden, step.size
    dh_t, dc_t = gradients_at_the_end(backend, arriving, (batch, size), (batch, hidden), step.state)
    dh = gradients_of_steps(backend, "dh", arriving.dh, (num_steps, batch, size), step.dtype)
    dc = gradients_of_steps(backend, "dc", arriving.dc, (num_steps, batch, hidden), kernels.ARITHMETIC[step.dtype])
    kept = dm = by_head = None
    projected: Array = None
    if variant.zoneout_h is not None or saved.mask is not None:
        kept = xp.zeros((batch, size), dtype=step.state)
    if step.normed or projection is not None:
        dm = xp.empty((batch, hidden), dtype=step.state)
    if projection is not None:
        projected = xp.empty((num_steps, batch, size), dtype=gates.dtype)
    if variant.heads > 1:
        by_head = xp.empty(step.product_shape, dtype=gates.dtype)
    sums = [xp.zeros((batch, n), dtype=step.state) if step.normed else None for n in (4 * hidden, hidden, hidden)]
    width = step.neighbours(gates, by_head, c, saved.cells, dm, dh, dc, dh_t, kept, dc_t)
    cell = backend.kernel(catalogue.kernel("family_cells_backward", step.dtype, width, step.normed))
    begin = None if projected is None else backend.kernel(catalogue.kernel("begin_dh", step.dtype))
    cell_grid, begin_grid = step.grid_of_cells(width), step.grid(size)
    in_cell = (
        gates, by_head, c, saved.cells, dm, dh, dc, dh_t, kept, dc_t, saved.normalised, saved.scales, *sums,
        step.options, step.lengths, np.int32(projection is not None), *step.sizes,
    )  # fmt: skip
    in_begin = projected, dh, dh_t, kept, *step.of_h
    product, out = saved.normalised if step.normed else gates, step.by_head(dh_t)
    numbers, done = step.numbers, np.int64(-1)
    for t, before, after in reversed(slots(num_steps, saved.reverse)):
        if begin is not None:
            begin(*begin_grid, (*in_begin, numbers[t], done))
            backend.matmul(projected[t], projection, out=dm)
        cell(*cell_grid, (*in_cell, numbers[t], done, numbers[before], numbers[after]))
        backend.matmul(product[t] if by_head is None else by_head, step.weight, out=out)
        done = numbers[t]
    # dh_t is dz W_hh of the first step; a step before it would take it from here as every other one does.
    dh_t = step.masked_h(dh_t, int(done))
    if kept is not None:
        dh_t += kept
    if step.normed:
        saved.dz_hh = saved.normalised  # it was overwritten
        totals = (xp.sum(rows, axis=0) for rows in sums)
        saved.gradients |= dict(zip(("gain_hh", "gain_c", "shift_c"), totals, strict=True))
    if projected is not None:
        rows = xp.reshape(projected, (-1, size)).T
        m = xp.reshape(saved.unprojected, (-1, hidden))
        saved.gradients["weight_hr"] = ops.of(backend).product(rows, m, dtype=kernels.ARITHMETIC[step.dtype])
    family.parameter_gradients(backend, saved, None)
    return Gradients(gates, dh_t, dc_t)


class StepArguments:
    """What forward and backward of a step share: sizes, checked arrays, arguments of the kernels.

    The sequence tier takes its arguments from here, too.
    """

    def __init__(self, backend: CudaBackend, variant: Variant, z: Array, weight_hh: Array, mask: Mask | None):
        self.backend, self.variant = backend, variant
        self.num_steps, self.batch, width = z.shape
        self.hidden, self.dtype = width // 4, str(z.dtype)
        self.size = self.hidden if variant.projection is None else variant.projection.shape[0]
        sums = kernels.ARITHMETIC[self.dtype]
        self.state = backend.dtype(sums)  # of c, of gradients of states and of sums
        # with layer normalisation; what is multiplied by W_hh isn't h itself
        self.normed = variant.gain_hh is not None
        self.masked = variant.recurrent_mask is not None or variant.live is not None
        packed.check(backend, variant, (self.num_steps, self.batch, self.hidden, self.size), self.dtype, sums)
        for name, array in zip(packed.PARAMETERS + packed.STATES, packed.arrays(variant), strict=True):
            if array is not None:
                kernels.require_whole(name, array)
        heads = variant.heads
        self.product_shape: tuple[int, ...] = (self.batch, width)  # of h W_hh^T of one step, head by head
        self.weight = weight_hh
        if heads > 1:
            self.product_shape = (heads, self.batch, width // heads)
            self.weight = split_heads(backend.xp, weight_hh, heads)
        self.options = packed.struct(variant, self.dtype, sums)
        self.lengths = None if mask is None else backend.asarray(mask.lengths, "int64")
        self.of_h = self.options, self.lengths, np.uint32(self.batch), np.uint32(self.size)
        self.sizes = tuple(np.uint32(n) for n in (heads, self.batch, self.hidden))
        self.numbers = [np.int64(n) for n in range(self.num_steps + 1)]

    def masked_h(self, h: Array, t: int) -> Array:
        """What enters step t's product of an h, or what comes back to it of a gradient, (B, P), in `state`."""
        live = None if self.variant.live is None else self.variant.live[t]
        for factor in (self.variant.recurrent_mask, live):
            if factor is not None:
                h = widened(self.backend, h) * widened(self.backend, factor)
        return h

    def by_head(self, states: Any) -> Any:
        """(..., B, P) as (..., heads, B, P / heads), a view; as it is where there is one head."""
        heads, xp = self.variant.heads, self.backend.xp
        if heads == 1 or states is None:
            return states
        *steps, batch, size = states.shape
        parts = xp.reshape(states, (*steps, batch, heads, size // heads))
        return xp.permute_dims(parts, (0, 2, 1, 3) if steps else (1, 0, 2))

    def neighbours(self, *arrays: Array | None) -> int:
        """Units a thread takes: as many as fill 16 bytes, or one where rows or arrays don't start at such places."""
        width = kernels.neighbours(self.dtype)
        given = [array for array in (*arrays, *packed.arrays(self.variant)) if array is not None]
        fits = (self.hidden // self.variant.heads) % width == 0 and kernels.aligned(16, *given)
        return width if fits and not self.normed else 1

    def grid_of_cells(self, neighbours: int) -> tuple[tuple[int], tuple[int]]:
        """Grid and block of the cell: a block of whole warps a sequence if normed, else a thread for some units."""
        if self.normed:
            return (self.batch,), (min(-(-self.hidden // 32) * 32, kernels.BLOCK),)
        return self.grid(self.hidden // neighbours)

    def grid(self, items: int) -> tuple[tuple[int], tuple[int]]:
        """Grid and block with a thread for each of so many items of each sequence."""
        return (-(-self.batch * items // kernels.BLOCK),), (kernels.BLOCK,)
