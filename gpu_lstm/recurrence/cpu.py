"""The sequence tier on NumPy: the whole recurrence in one call of compiled code (``kernels/cpu``).

W_hh is packed once per call; a register-tiled product whose sums are the four gates of the same hidden units
finishes each cell before anything goes back to memory; threads split the batch, or the hidden units where the
batch is small; of two directions with a small batch, each takes half of the threads. The plain LSTM has its own
kernel, the family another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend
from gpu_lstm.native import compiled, kept
from gpu_lstm.recurrence import packed
from gpu_lstm.recurrence.problem import (
    Arriving,
    Gradients,
    Problem,
    Saved,
    Tier,
    begin,
    gradients_at_the_end,
    one_by_one,
)
from gpu_lstm.recurrence.variant import OPTIONS, Variant, refuse

BATCH_TO_SPLIT = 3
"""Sequences a thread from which the threads split the batch and not the hidden units."""
SECOND_CACHE = 1 << 20
"""Bytes of W_hh a thread from which they come from further away than the second cache at every step."""


def obstacle(backend: Backend, hidden: int | None, dtype: str, options: frozenset[str]) -> str:
    """Why the compiled library isn't there, or ""."""
    return compiled.missing()


def forward(backend: Backend, problems: Sequence[Problem]) -> list[Saved]:
    """Run recurrences over all steps; two at once where that pays."""
    begun = [_begin(backend, problem) for problem in problems]
    both = _split_both(begun)
    if both is not None:
        _forward(problems, begun, both)
        return begun
    for problem, saved in zip(problems, begun, strict=True):
        split = shared_out(*_sizes(saved))
        if saved.variant is None:
            _forward([problem], [saved], split)
        else:
            _family_forward(backend, saved, saved.variant, split)
    return begun


def backward(backend: Backend, arriving: Sequence[Arriving]) -> list[Gradients]:
    """Backpropagate through all steps, likewise."""
    found = [Gradients(one.saved.gates, *_at_the_end(backend, one)) for one in arriving]
    both = None if any(one.dc is not None for one in arriving) else _split_both([one.saved for one in arriving])
    if both is not None:
        _backward(arriving, found, both)
        return found
    for one, gradients in zip(arriving, found, strict=True):
        split = shared_out(*_sizes(one.saved))
        if one.saved.variant is None and one.dc is None:
            _backward([one], [gradients], split)
        else:
            _family_backward(backend, one, gradients, split)
    return found


def _begin(backend: Backend, problem: Problem) -> Saved:
    """What forward fills: the initial state is there."""
    z, variant = problem.z, problem.variant
    num_steps, batch, width = compiled.axes("z", z, 3)
    hidden = width // 4
    size = hidden if variant is None or variant.projection is None else variant.projection.shape[0]
    h = backend.empty((num_steps + 1, batch, size), z.dtype)
    c = backend.empty((num_steps + 1 if problem.keep else 1, batch, hidden), z.dtype)
    begin(problem, h, c)
    return Saved(h, c, z, problem.weight_hh, problem.mask, problem.reverse, variant)


def _forward(problems: Sequence[Problem], together: Sequence[Saved], split: tuple[int, int]) -> None:
    """Fill what `_begin` made, for plain LSTMs of one size."""
    first = together[0]
    panels = [None if problem.kept is None else problem.kept(kept.for_recurrence) for problem in problems]
    compiled.call(
        "forward", first.h.dtype, *_sizes(first), len(together), [saved.gates for saved in together],
        [saved.weight_hh for saved in together], panels, [saved.h for saved in together],
        [saved.c for saved in together], *_order(together), int(_keeps(first)), *split,
    )  # fmt: skip


def _backward(together: Sequence[Arriving], found: Sequence[Gradients], split: tuple[int, int]) -> None:
    """Make gradients of the final states those of the initial ones, and the gates dz."""
    every = [one.saved for one in together]
    compiled.call(
        "backward", every[0].h.dtype, *_sizes(every[0]), len(every), [saved.gates for saved in every],
        [saved.weight_hh for saved in every], [saved.c for saved in every], [one.dh for one in together],
        [one.dh0 for one in found], [one.dc0 for one in found], *_order(every), *split,
    )  # fmt: skip


def _family_forward(backend: Backend, saved: Saved, variant: Variant, split: tuple[int, int]) -> None:
    """Fill what `_begin` made."""
    z, (num_steps, batch, hidden), keep = saved.gates, _sizes(saved), _keeps(saved)
    gains = (variant.gain_hh, variant.gain_c, variant.shift_c)
    refuse(len({gain is None for gain in gains}) > 1, "part of layer normalisation")
    kept = num_steps if keep else 1
    if keep and variant.zoneout_c is not None:
        saved.cells = backend.empty((num_steps, batch, hidden), z.dtype)
    if variant.projection is not None:
        saved.unprojected = backend.empty((kept, batch, hidden), z.dtype)
    if variant.gain_hh is not None:
        saved.normalised = backend.empty((kept, batch, 4 * hidden), z.dtype)
        saved.scales = backend.empty((kept, batch, 1), z.dtype)
    compiled.call(
        "family_forward", z.dtype, num_steps, batch, hidden, *_of_variant(saved, variant), z, saved.h, saved.c,
        saved.cells, saved.unprojected, saved.normalised, saved.scales, _lengths(saved), int(saved.reverse), int(keep),
        *split,
    )  # fmt: skip


def _family_backward(backend: Backend, one: Arriving, found: Gradients, split: tuple[int, int]) -> None:
    """Likewise, and gradients of the parameters that options have."""
    saved, gates = one.saved, one.saved.gates
    (num_steps, batch, hidden), size = _sizes(saved), saved.h.shape[2]
    variant = saved.variant or Variant()
    projected = peepholes = norm = None
    if variant.projection is not None:
        projected = backend.empty((num_steps, batch, size), gates.dtype)
    if variant.peepholes is not None:
        peepholes = np.zeros((batch, 3, hidden), gates.dtype)
    if variant.gain_hh is not None:
        norm = np.zeros((batch, 6 * hidden), gates.dtype)
    compiled.call(
        "family_backward", gates.dtype, num_steps, batch, hidden, *_of_variant(saved, variant), gates, saved.c,
        saved.cells, one.dh, one.dc, found.dh0, found.dc0, projected, peepholes, saved.normalised, saved.scales, norm,
        _lengths(saved), int(saved.reverse), *split,
    )  # fmt: skip
    if projected is not None:
        rows = num_steps * batch
        m = saved.unprojected.reshape(rows, hidden)
        saved.gradients["weight_hr"] = ops.of(backend).weight_gradients(projected.reshape(rows, size), [m])[0][0]
    if peepholes is not None:
        saved.gradients["peephole"] = peepholes.sum(axis=0)
    if norm is not None:
        parts = np.split(norm.sum(axis=0), [4 * hidden, 5 * hidden])
        saved.gradients |= dict(zip(("gain_hh", "gain_c", "shift_c"), parts, strict=True))
        saved.dz_hh = saved.normalised  # it was overwritten


def _sizes(saved: Saved) -> tuple[int, int, int]:
    """T, B, H."""
    return len(saved.gates), saved.c.shape[1], saved.c.shape[2]


def _order(every: Sequence[Saved]) -> tuple[list[np.ndarray | None], list[int]]:
    """Lengths of each, and whether it is in reverse."""
    return [_lengths(saved) for saved in every], [int(saved.reverse) for saved in every]


def _at_the_end(backend: Backend, arriving: Arriving) -> tuple[Array, Array]:
    """Gradients of the final state, of which the kernels make those of the initial one."""
    saved = arriving.saved
    return gradients_at_the_end(backend, arriving, saved.h.shape[1:], saved.c.shape[1:], saved.h.dtype)


def _keeps(saved: Saved) -> bool:
    """Whether everything is kept for backward."""
    return len(saved.c) == len(saved.h)


def _lengths(saved: Saved) -> np.ndarray | None:
    return None if saved.mask is None else saved.mask.lengths


def _of_variant(saved: Saved, variant: Variant) -> tuple[Any, ...]:
    """What the family's kernel takes besides T, B, H and the states: see ``Family`` in kernels/cpu/family.h."""
    size, heads = saved.h.shape[2], variant.heads
    refuse(saved.c.shape[2] % heads + size % heads > 0, f"{heads} heads that don't divide H and P")
    return size, heads, *packed.listed(variant, str(saved.h.dtype)), saved.weight_hh, variant.projection


def shared_out(num_steps: int, batch: int, hidden: int) -> tuple[int, int]:
    """Number of threads, and 1 where they split the batch, 0 where the hidden units."""
    threads = compiled.threads()
    if num_steps * batch * 4 * hidden * hidden < compiled.SERIAL_WORK:
        threads = 1
    by_batch = batch >= BATCH_TO_SPLIT * threads
    return (min(threads, max(batch, 1)) if by_batch else threads), int(by_batch)


def _split_both(two: Sequence[Saved]) -> tuple[int, int] | None:
    """Return that of two at once, each on half of the threads; None where they run one after the other.

    At once, fewer threads wait for each other after each step, on two threads none; but each has twice as much of its
    W_hh to read.
    """
    if len(two) != 2 or any(saved.variant is not None for saved in two):
        return None
    first, second = two
    if (first.h.shape, first.c.shape, first.h.dtype) != (second.h.shape, second.c.shape, second.h.dtype):
        return None
    threads, by_batch = shared_out(*_sizes(first))
    if by_batch or threads % 2:
        return None
    half, by_batch = threads // 2, first.c.shape[1] >= BATCH_TO_SPLIT * (threads // 2)
    if first.weight_hh.nbytes >= SECOND_CACHE * (1 if by_batch else half):
        return None
    return threads, int(by_batch)


TIER = Tier(OPTIONS, obstacle, one_by_one, forward, backward)
