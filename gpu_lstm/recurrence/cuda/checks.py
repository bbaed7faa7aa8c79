"""Arrays as the CUDA kernels need them, or refused by name."""

from __future__ import annotations

from gpu_lstm.backend import Array, Backend
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.errors import InputError
from gpu_lstm.native import kernels
from gpu_lstm.recurrence.problem import Saved
from gpu_lstm.recurrence.variant import Variant

MOST_CELLS = 2**31 - 1
"""Largest B H; the number of steps has no limit but memory."""


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


def gradients_of_steps(
    backend: Backend, name: str, gradients: Array | None, shape: tuple[int, ...], dtype: str
) -> Array | None:
    """Gradients that arrive at all steps, checked; without gaps, which one direction's part of a wider array has."""
    if gradients is None:
        return None
    backend.require(name, gradients, shape, dtype)
    return backend.xp.ascontiguousarray(gradients)
