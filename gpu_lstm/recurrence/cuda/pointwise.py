"""The pointwise tier on a GPU: at each step one product by cuBLAS and one fused kernel (``kernels/cuda/gates.cu``).

Two launches a step, forward and backward; all memory is there before the loop starts, and nothing waits for the host.
Variants of the LSTM are computed by `gpu_lstm.recurrence.cuda.family`.

float16 and bfloat16 arrays are taken, too: c and its gradient, and the gradient of h, are float32 then.
"""

from __future__ import annotations

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.native import catalogue, kernels
from gpu_lstm.recurrence.cuda import family
from gpu_lstm.recurrence.cuda.checks import check, check_saved, gradients_of_steps
from gpu_lstm.recurrence.problem import Arriving, Gradients, Problem, Saved, begin, gradients_at_the_end, slots
from gpu_lstm.recurrence.tier import Tier, each, one_by_one
from gpu_lstm.recurrence.variant import OPTIONS


def forward(backend: CudaBackend, problem: Problem) -> Saved:
    """Run the recurrence over all steps; see `gpu_lstm.recurrence.reference.forward`.

    Raises InputError where an array has another dtype, shape or device, has gaps, or is too large.
    """
    z, weight_hh, mask, keep = problem.z, problem.weight_hh, problem.mask, problem.keep
    num_steps, batch, hidden, dtype = check(backend, z, weight_hh, problem.variant)
    if problem.variant is not None:
        return family.forward(backend, problem)
    xp = backend.xp
    state = backend.dtype(kernels.ARITHMETIC[dtype])
    h = xp.empty((num_steps + 1, batch, hidden), dtype=z.dtype)
    c = xp.empty((num_steps + 1 if keep else 1, batch, hidden), dtype=state)
    begin(problem, h, c)
    lengths = None if mask is None else backend.asarray(mask.lengths, "int64")
    width = _neighbours(dtype, hidden, z, h, c)
    cell = backend.kernel(catalogue.kernel("gates_forward", dtype, width, keep, mask is not None))
    grid, block = _geometry(batch * hidden // width)
    sizes = np.uint32(batch), np.uint32(hidden)
    weight_t = weight_hh.T
    numbers = [np.int64(n) for n in range(num_steps + 1)]
    for t, before, after in slots(num_steps, problem.reverse):
        backend.matmul(h[before], weight_t, out=z[t], add=True)
        step, old, new = numbers[t], numbers[before], numbers[after]
        in_c = (old, new) if keep else (numbers[0], numbers[0])
        cell(grid, block, (z, h, c, lengths, step, old, new, *in_c, *sizes))
    return Saved(h, c, z, weight_hh, mask, problem.reverse)


def backward(backend: CudaBackend, arriving: Arriving) -> Gradients:
    """Backpropagate through all steps; see `gpu_lstm.recurrence.reference.backward`."""
    saved = arriving.saved
    gates, c, mask, weight_hh = saved.gates, saved.c, saved.mask, saved.weight_hh
    num_steps, batch, hidden, dtype = check_saved(backend, saved)
    if saved.variant is not None or arriving.dc is not None:
        return family.backward(backend, arriving)
    cells = batch, hidden
    dh_t, dc_t = gradients_at_the_end(backend, arriving, cells, cells, c.dtype)
    dh = gradients_of_steps(backend, "dh", arriving.dh, (num_steps, *cells), dtype)
    lengths = None if mask is None else backend.asarray(mask.lengths, "int64")
    width = _neighbours(dtype, hidden, gates, c, dh_t, dc_t, *([] if dh is None else [dh]))
    cell = backend.kernel(catalogue.kernel("gates_backward", dtype, width, mask is not None))
    grid, block = _geometry(batch * hidden // width)
    sizes = np.uint32(batch), np.uint32(hidden)
    numbers = [np.int64(n) for n in range(num_steps + 1)]
    for t, before, after in reversed(slots(num_steps, saved.reverse)):
        cell(grid, block, (gates, c, dh, dh_t, dc_t, lengths, numbers[t], numbers[before], numbers[after], *sizes))
        backend.matmul(gates[t], weight_hh, out=dh_t, add=mask is not None)
    return Gradients(gates, dh_t, dc_t)


def _neighbours(dtype: str, hidden: int, *arrays: Array) -> int:
    """Hidden units a thread takes: as many as fill 16 bytes, or one where rows or arrays don't start at such places."""
    width = kernels.neighbours(dtype)
    return width if hidden % width == 0 and kernels.aligned(16, *arrays) else 1


def _geometry(items: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block with a thread for each item."""
    return (-(-items // kernels.BLOCK),), (kernels.BLOCK,)


TIER = Tier(OPTIONS, lambda *_: "", one_by_one, each(forward), each(backward))
