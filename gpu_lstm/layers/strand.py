"""A layer in one direction over one long sequence: any of its steps in any order, for `gpu_lstm.layers.overtime`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.layers import beyond
from gpu_lstm.layers import member as members
from gpu_lstm.layers.arguments import valid
from gpu_lstm.layers.call import Member, Work
from gpu_lstm.recurrence import Mask, Problem
from gpu_lstm.recurrence.inference import WHOLE

STEPS = 128
"""Steps after which the state is rounded, and may be found to be that of an earlier run; counted from step 0 on."""

Both = tuple[Array, Array]
"""h and c, (n, P) and (n, H), of n sequences, in the dtype of sums."""


class Strand:
    """A member's recurrence over all steps, which runs over a range of them for any sequence, in any order."""

    def __init__(self, work: Work, member: Member, x: Array, bits: int):
        kept = {name: _once(made) for name, made in work.kept.items()}
        self.work, self.member, self.x, self.bits = replace(work, kept=kept), member, x, bits
        sizes, call, xp = work.sizes, work.call, work.sizes.backend.xp
        self.reverse, self.dtype = member.direction == 1, sizes.backend.dtype(sizes.param_dtype)
        self.lengths = np.full(call.batch, call.steps) if call.mask is None else call.mask.lengths
        self.variant = None
        if call.resets is not None or not work.plain:
            self.variant = beyond.variant(work, member, 0, call.steps)
        make = xp.empty if call.mask is None else xp.zeros
        self.y = make((call.steps, call.batch, sizes.output_size), dtype=sizes.backend.dtype(sizes.dtype))
        self.cells = None
        if work.gives_cells(member):
            self.cells = make((call.steps, call.batch, sizes.hidden_size), dtype=self.dtype)

    def begin(self, h: Array | None, c: Array | None) -> Both:
        """Return the initial state, (B, P) and (B, H), in the dtype of sums."""
        sizes, xp = self.work.sizes, self.work.sizes.backend.xp
        shapes = (self.work.call.batch, sizes.output_size), (self.work.call.batch, sizes.hidden_size)
        pairs = zip((h, c), shapes, strict=True)
        h, c = (xp.zeros(s, dtype=self.dtype) if a is None else xp.astype(a, self.dtype, copy=True) for a, s in pairs)
        return h, c

    def run(self, firsts: np.ndarray, count: int, rows: np.ndarray, state: Both, write: int | None = None) -> Both:
        """Run `count` steps, from the `firsts` (n,) of them on, of the sequences `rows` (n,); return the state after.

        Steps are counted in the order in which they run. `write`: the outputs of so many of them are kept, all if None.
        """
        starts = self.work.call.steps - firsts - count if self.reverse else firsts
        backend, xp, member = self.work.sizes.backend, self.work.sizes.backend.xp, self.member
        where = self._places(starts, count, rows)
        x, mask = self.x[where], self._mask(starts, count, rows)
        infer, name = WHOLE.get(self.work.tier.forward), member.name
        if infer and self.variant is None and mask is None and not self.reverse and self.cells is None:
            kept, bias = self.work.kept, self.work.params.get(f"bias_{name}")
            weights = kept[f"weight_ih_{name}"], bias, kept[f"weight_hh_{name}"]
            h, c = infer(backend, x, self.work.sizes.hidden_size, *weights, *state)
            y, cells, last = h[1:, ...], None, (h[-1, ...], c[0, ...])
        else:
            z, weight = members.enter(self.work, member, x).z, f"weight_hh_{name}"
            variant = self.variant
            if variant is not None and variant.live is not None:
                variant = replace(variant, live=variant.live[where])
            problem = Problem(
                z, self.work.params[weight], *state, mask, self.reverse, self.cells is not None, variant,
                kept=self.work.kept.get(weight),
            )  # fmt: skip
            (saved,) = self.work.tier.forward(backend, [problem])
            y, last = valid(xp, mask, saved.outputs), saved.last
            cells = None if self.cells is None else valid(xp, mask, saved.c_after)
        for whole, part in ((self.y, y), (self.cells, cells)):
            if whole is None or part is None or write == 0:
                continue
            if write is None:
                whole[where] = part
            else:
                whole[self._places(starts[:write], count, rows[:write])] = part[:, :write, ...]
        h, c = (xp.astype(part, self.dtype, copy=True) for part in last)
        return (h, c) if self.bits == 0 else self._rounded(starts, count, rows, (h, c))

    def _places(self, starts: np.ndarray, count: int, rows: np.ndarray) -> Any:
        """An index of arrays (T, B, .): a view where all sequences are at one place, else a copy."""
        if len(rows) == self.work.call.batch and (starts == starts[0]).all() and (np.diff(rows) == 1).all():
            return slice(int(starts[0]), int(starts[0]) + count)
        asarray = self.work.sizes.backend.asarray
        return asarray(starts + np.arange(count)[:, None], "int64"), asarray(rows[None, :], "int64")

    def _mask(self, starts: np.ndarray, count: int, rows: np.ndarray) -> Mask | None:
        """Return which of those steps belong to the sequences."""
        lengths = np.clip(self.lengths[rows] - starts, 0, count)
        if lengths.min() == count:
            return None
        inside = np.arange(count)[:, None, None] < lengths[None, :, None]
        return Mask(lengths.astype(np.int64), self.work.sizes.backend.asarray(inside, "bool"))

    def _rounded(self, starts: np.ndarray, count: int, rows: np.ndarray, state: Both) -> Both:
        """Round the state of those sequences that are at a multiple of `STEPS`, and not beyond their end."""
        border = starts if self.reverse else starts + count
        inside = self.lengths[rows] > border if self.reverse else self.lengths[rows] >= border
        chosen = inside & (border % STEPS == 0)
        if not chosen.any():
            return state
        xp = self.work.sizes.backend.xp
        h, c = (round_to(xp, part, self.bits) for part in state)
        if chosen.all():
            return h, c
        chosen = self.work.sizes.backend.asarray(chosen[:, None], "bool")
        return xp.where(chosen, h, state[0]), xp.where(chosen, c, state[1])


def round_to(xp: Any, x: Array, bits: int) -> Array:
    """Round x to so many binary places; beyond ±1 to as many fewer as it is larger. What is no number stays."""
    whole, exponent = {4: ("int32", 0x7F800000), 8: ("int64", 0x7FF0000000000000)}[x.itemsize]
    finite, ones = xp.isfinite(x), xp.ones_like(x)
    scale = xp.where(finite, xp.maximum((x.view(whole) & exponent).view(x.dtype), ones), ones) * 2.0**-bits
    return xp.where(finite, xp.round(x / scale) * scale, x)


def same(xp: Any, first: Both, second: Both) -> np.ndarray:
    """Return for each row of two states whether both have the same bits, on the host."""
    found = []
    for one, other in zip(first, second, strict=True):
        whole = f"int{8 * one.itemsize}"
        found.append(xp.all(one.view(whole) == other.view(whole), axis=1))
    return np.asarray((found[0] & found[1]).tolist())


def _once(made: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What is made of a weight, which doesn't change within a call, without looking at it again."""
    found: dict[Any, Any] = {}

    def get(make: Any) -> Any:
        if make not in found:
            found[make] = made(make)
        return found[make]

    return get
