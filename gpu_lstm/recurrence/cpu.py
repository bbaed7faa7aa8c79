"""The sequence tier on NumPy: the whole recurrence in one call of compiled code (``kernels/cpu``).

W_hh is packed once per call; a register-tiled product whose sums are the four gates of the same hidden units
finishes each cell before anything goes back to memory; threads split the batch, or the hidden units where the
batch is small; of two directions with a small batch, each takes half of the threads. The plain LSTM has its own
kernel, the family another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.native import compiled, kept
from gpu_lstm.recurrence import cpu_family
from gpu_lstm.recurrence.problem import Arriving, Gradients, Problem, Saved, begin, gradients_at_the_end
from gpu_lstm.recurrence.tier import Tier, one_by_one
from gpu_lstm.recurrence.variant import OPTIONS

BATCH_TO_SPLIT = 3
"""Sequences a thread from which the threads split the batch and not the hidden units."""
SMALL = 64
"""Hidden units up to which they do so in any case, one sequence each: else they'd wait longer than they work."""
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
        split = shared_out(*saved.sizes)
        if saved.variant is None:
            _forward([problem], [saved], split)
        else:
            cpu_family.forward(backend, saved, saved.variant, split)
    return begun


def backward(backend: Backend, arriving: Sequence[Arriving]) -> list[Gradients]:
    """Backpropagate through all steps, likewise."""
    found = []
    for one in arriving:
        h, c = one.saved.h, one.saved.c
        ends = gradients_at_the_end(backend, one, h.shape[1:], c.shape[1:], h.dtype)  # they become the initial ones'
        found.append(Gradients(one.saved.gates, *ends))
    both = None if any(one.dc is not None for one in arriving) else _split_both([one.saved for one in arriving])
    if both is not None:
        _backward(arriving, found, both)
        return found
    for one, gradients in zip(arriving, found, strict=True):
        split = shared_out(*one.saved.sizes)
        if one.saved.variant is None and one.dc is None:
            _backward([one], [gradients], split)
        else:
            cpu_family.backward(backend, one, gradients, split)
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
        "forward", first.h.dtype, *first.sizes, len(together), [saved.gates for saved in together],
        [saved.weight_hh for saved in together], panels, [saved.h for saved in together],
        [saved.c for saved in together], *_order(together), int(len(first.c) == len(first.h)), *split,
    )  # fmt: skip


def _backward(together: Sequence[Arriving], found: Sequence[Gradients], split: tuple[int, int]) -> None:
    """Make gradients of the final states those of the initial ones, and the gates dz."""
    every = [one.saved for one in together]
    compiled.call(
        "backward", every[0].h.dtype, *every[0].sizes, len(every), [saved.gates for saved in every],
        [saved.weight_hh for saved in every], [saved.c for saved in every], [one.dh for one in together],
        [one.dh0 for one in found], [one.dc0 for one in found], *_order(every), *split,
    )  # fmt: skip


def _order(every: Sequence[Saved]) -> tuple[list[np.ndarray | None], list[int]]:
    """Lengths of each, and whether it is in reverse."""
    return [saved.lengths for saved in every], [int(saved.reverse) for saved in every]


def shared_out(num_steps: int, batch: int, hidden: int) -> tuple[int, int]:
    """Number of threads, and 1 where they split the batch, 0 where the hidden units."""
    threads = compiled.threads()
    if num_steps * batch * 4 * hidden * hidden < compiled.SERIAL_WORK:
        threads = 1
    by_batch = batch >= (1 if hidden <= SMALL else BATCH_TO_SPLIT) * threads
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
    (threads, _), batch = shared_out(*first.sizes), first.c.shape[1]
    half, by_batch = threads // 2, batch >= BATCH_TO_SPLIT * (threads // 2)
    if batch >= BATCH_TO_SPLIT * threads or threads % 2:
        return None
    if first.weight_hh.nbytes >= SECOND_CACHE * (1 if by_batch else half):
        return None
    return threads, int(by_batch)


TIER = Tier(OPTIONS, obstacle, one_by_one, forward, backward, steady=True)
