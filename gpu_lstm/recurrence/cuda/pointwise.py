"""The pointwise tier on a GPU: at each step one product by cuBLAS and one fused kernel (``kernels/cuda/gates.cu``).

Two launches a step, forward and backward; all memory is there before the loop starts, and nothing waits for the host.
Variants of the LSTM are computed by `gpu_lstm.recurrence.cuda.family`.

float16 and bfloat16 arrays are taken, too: c and its gradient, and the gradient of h, are float32 then.
"""

from __future__ import annotations

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.errors import InputError
from gpu_lstm.native import catalogue, kernels
from gpu_lstm.recurrence.cuda import family
from gpu_lstm.recurrence.problem import (
    Arriving,
    Gradients,
    Problem,
    Saved,
    Tier,
    begin,
    each,
    gradients_at_the_end,
    gradients_of_steps,
    one_by_one,
    slots,
)
from gpu_lstm.recurrence.variant import OPTIONS, Variant

MOST_CELLS = 2**31 - 1
"""Largest B H; the number of steps has no limit but memory."""


def forward(backend: CudaBackend, problem: Problem) -> Saved:
    """Run the recurrence over all steps; see `gpu_lstm.recurrence.reference.forward`.

    Raises
    ------
    InputError
        An array has another dtype, shape or device, has gaps, or is too large.
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


def check(
    backend: CudaBackend, z: Array, weight_hh: Array, variant: Variant | None = None
) -> tuple[int, int, int, str]:
    """T, B, H and dtype, once all is as the kernels need it."""
    num_steps, batch, hidden, dtype = check_z(backend, z)
    columns, what = hidden, "H"
    if variant is not None:
        columns = (hidden if variant.projection is None else variant.projection.shape[0]) // variant.heads
        what = "H" if variant.projection is None and variant.heads == 1 else "P/heads"
    if batch * hidden > MOST_CELLS:
        raise InputError(f"z has B H = {batch * hidden} cells; expected at most {MOST_CELLS} (split the batch)")
    kernels.require_whole("z", z)
    backend.require("weight_hh", weight_hh, (f"4H={4 * hidden}", f"{what}={columns}"), dtype)
    kernels.require_whole("weight_hh", weight_hh)
    return num_steps, batch, hidden, dtype


def check_saved(backend: CudaBackend, saved: Saved) -> tuple[int, int, int, str]:
    """`check` of what forward saved, with all else that backward's kernels take of it."""
    num_steps, batch, hidden, dtype = check(backend, saved.gates, saved.weight_hh, saved.variant)
    state = kernels.ARITHMETIC[dtype]
    kinds: dict[str, tuple[int, int, str]] = {"c": (num_steps + 1, hidden, state), "cells": (num_steps, hidden, state)}
    kinds |= {"unprojected": (num_steps, hidden, dtype), "normalised": (num_steps, 4 * hidden, dtype)}
    kinds |= {name: (num_steps, 1, state) for name in ("scales", "c_means", "c_scales")}
    for name, (steps, width, kind) in kinds.items():
        array = getattr(saved, name)
        if array is not None:
            backend.require(f"saved.{name}", array, (steps, f"B={batch}", width), kind)
            kernels.require_whole(f"saved.{name}", array)
    return num_steps, batch, hidden, dtype


def check_z(backend: CudaBackend, z: Array) -> tuple[int, int, int, str]:
    """T, B, H and dtype, once z has a shape and a dtype that the kernels take."""
    backend.require("z", z, ("T", "B", "4H"))
    dtype, (num_steps, batch, width) = kernels.dtype_name(z.dtype), z.shape
    if dtype not in kernels.STORAGE:
        raise InputError(f"z has dtype {dtype}; expected one of {', '.join(kernels.STORAGE)}")
    if width % 4:
        raise InputError(f"z has shape {tuple(z.shape)}; expected (T, B, 4H), four gates of H units")
    return num_steps, batch, width // 4, dtype


def _neighbours(dtype: str, hidden: int, *arrays: Array) -> int:
    """Hidden units a thread takes: as many as fill 16 bytes, or one where rows or arrays don't start at such places."""
    width = kernels.neighbours(dtype)
    return width if hidden % width == 0 and kernels.aligned(16, *arrays) else 1


def _geometry(items: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block with a thread for each item."""
    return (-(-items // kernels.BLOCK),), (kernels.BLOCK,)


TIER = Tier(OPTIONS, lambda *_: "", one_by_one, each(forward), each(backward))
