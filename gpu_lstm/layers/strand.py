"""A layer in one direction over one long sequence: any of its steps in any order, for `gpu_lstm.layers.overtime`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.layers import beyond
from gpu_lstm.layers import member as members
from gpu_lstm.layers.arguments import valid
from gpu_lstm.layers.call import Member, Work
from gpu_lstm.layers.schedule import ONE_SEGMENT
from gpu_lstm.recurrence import Mask, Problem
from gpu_lstm.recurrence.inference import NEVER, WHOLE, begun

STEPS = 128
"""Steps of a chunk, after which the state is rounded, and may be found to be that of an earlier run."""

Both = tuple[Array, Array]
"""h and c, (n, P) and (n, H), of n sequences, in the dtype of sums."""


class Strand:
    """A member's recurrence over all steps, which runs over a range of them for any sequence, in any order.

    Steps are counted in the order in which they run, in chunks of `STEPS`, `edges` (N+1,) apart. In time, chunks begin
    at multiples of `STEPS`, so that in reverse the first one may be the short one.
    """

    def __init__(self, work: Work, member: Member, x: Array, places: int):
        kept = {name: _once(made) for name, made in work.kept.items()}
        self.work, self.member, self.x, self.places = replace(work, kept=kept), member, x, places
        sizes, call, backend = work.sizes, work.call, work.sizes.backend
        self.reverse, self.dtype = member.direction == 1, backend.dtype(sizes.param_dtype)
        self.lengths = np.full(call.batch, call.steps) if call.mask is None else call.mask.lengths
        borders = np.arange(0, call.steps, STEPS)
        self.edges = np.append(0, call.steps - borders[::-1]) if self.reverse else np.append(borders, call.steps)
        self.variant = None
        if call.resets is not None or not work.plain:
            self.variant = beyond.variant(work, member, 0, call.steps)
        # h of every step, with a slot before the first one, where compiled code finds the state.
        make = backend.empty if call.mask is None else backend.xp.zeros
        self.slots = make((call.steps + 1, call.batch, sizes.output_size), dtype=backend.dtype(sizes.dtype))
        self.cells = None
        if work.gives_cells(member):
            self.cells = make((call.steps, call.batch, sizes.hidden_size), dtype=self.dtype)
        simple = self.variant is None and call.mask is None and not self.reverse and self.cells is None
        self.whole = WHOLE.get(work.tier.forward) if simple else None  # any number of steps, which it rounds

    @property
    def y(self) -> Array:
        """Its outputs, (T, B, P)."""
        return self.slots[1:, ...]

    def begin(self, h: Array | None, c: Array | None) -> Both:
        """Return the initial state, (B, P) and (B, H), in the dtype of sums."""
        sizes, xp = self.work.sizes, self.work.sizes.backend.xp
        shapes = (self.work.call.batch, sizes.output_size), (self.work.call.batch, sizes.hidden_size)
        pairs = zip((h, c), shapes, strict=True)
        h, c = (xp.zeros(s, dtype=self.dtype) if a is None else xp.astype(a, self.dtype, copy=True) for a, s in pairs)
        return h, c

    def along(self, chunk: int, stop: int, state: Both) -> Both:
        """Run all sequences from one chunk to another; return the state after."""
        rows = np.arange(self.work.call.batch)
        most = 1 if self.places else max(ONE_SEGMENT // len(rows) // STEPS, 1)
        while chunk < stop:
            after = stop if self.whole else min(chunk + most, stop)
            count = int(self.edges[after] - self.edges[chunk])
            state, chunk = self.run(np.full(len(rows), self.edges[chunk]), count, rows, state), after
        return state

    def run(self, firsts: np.ndarray, count: int, rows: np.ndarray, state: Both, write: int | None = None) -> Both:
        """Run `count` steps, from the `firsts` (n,) of them on, of the sequences `rows` (n,); return the state after.

        `write`: the outputs of so many of them are kept, all if None. Where the state is rounded, `firsts` are edges.
        """
        starts = self.work.call.steps - firsts - count if self.reverse else firsts
        where = self._places(starts, count, rows)
        if self.whole is None:
            y, cells, last = self._by_tier(where, self._mask(starts, count, rows), state)
            last = self._rounded(starts, count, rows, y, cells, last)
        else:
            sizes, kept, name, h = self.work.sizes, self.work.kept, self.member.name, None
            if write is None and isinstance(where, slice):
                h = self.slots[where.start : where.stop + 1, ...]
            x = self.x[where]
            weights = kept[f"weight_ih_{name}"], self.work.params.get(f"bias_{name}"), kept[f"weight_hh_{name}"]
            rounding = (STEPS, self.places) if self.places else NEVER
            found, c = begun(sizes.backend, (len(x) + 1, x.shape[1], sizes.hidden_size), x.dtype, *state, h)
            self.whole(x, found, c, *weights, rounding)(x, found, c)
            y, cells, last = None if found is h else found[1:, ...], None, (found[-1, ...], c[0, ...])
        if write is not None:
            where = self._places(starts[:write], count, rows[:write])
        for all_, part in ((self.y, y), (self.cells, cells)):
            if all_ is not None and part is not None and write != 0:
                all_[where] = part[:, :write, ...]
        return last

    def _by_tier(self, where: Any, mask: Mask | None, state: Both) -> tuple[Array, Array | None, Both]:
        """Outputs, c where it is handed out, and the state after, by the tier."""
        work, xp, weight, variant = self.work, self.work.sizes.backend.xp, f"weight_hh_{self.member.name}", self.variant
        if variant is not None and variant.live is not None:
            variant = replace(variant, live=variant.live[where])
        z, keep = members.enter(work, self.member, self.x[where]).z, self.cells is not None
        weights = work.params[weight], work.kept.get(weight)
        problem = Problem(z, weights[0], *state, mask, self.reverse, keep, variant, kept=weights[1])
        (saved,) = work.tier.forward(work.sizes.backend, [problem])
        return valid(xp, mask, saved.outputs), valid(xp, mask, saved.c_after) if keep else None, saved.last

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

    def _rounded(
        self, starts: np.ndarray, count: int, rows: np.ndarray, y: Array, cells: Array | None, state: Both
    ) -> Both:
        """A copy of the state, of sequences that are at an edge and not beyond their end rounded, as y is there."""
        sizes, xp, border = self.work.sizes, self.work.sizes.backend.xp, starts if self.reverse else starts + count
        inside = self.lengths[rows] > border if self.reverse else self.lengths[rows] >= border
        chosen, end = inside & (border % STEPS == 0) & (self.places > 0), 0 if self.reverse else -1
        if not chosen.any():
            h, c = (xp.astype(part, self.dtype, copy=True) for part in state)
            return h, c
        found, these = [], sizes.backend.asarray(chosen[:, None], "bool")
        for part, out, dtype in zip(state, (y, cells), (sizes.dtype, sizes.param_dtype), strict=True):
            rounded = round_to(xp, xp.astype(part, self.dtype, copy=False), self.places)
            found.append(rounded if chosen.all() else xp.where(these, rounded, part))
            if out is not None:
                last = sizes.backend.asarray(rounded, dtype)
                out[end, ...] = last if chosen.all() else xp.where(these, last, out[end, ...])
        return found[0], found[1]


def round_to(xp: Any, x: Array, places: int) -> Array:
    """Round x to so many binary places; beyond ±1 to as many fewer as it is larger. What is no number stays.

    A sum with 1.5 times the number whose last bit is the last one wanted rounds to it, and leaves no -0.0.
    """
    whole, exponent, mantissa = {4: ("int32", 0x7F800000, 23), 8: ("int64", 0x7FF0000000000000, 52)}[x.itemsize]
    shift = xp.clip((x.view(whole) & exponent).view(x.dtype), 1.0, 2.0**100) * (1.5 * 2.0 ** (mantissa - places))
    return (x + shift) - shift


def same(xp: Any, first: Both, second: Both) -> np.ndarray:
    """Return for each row of two states whether both have the same bits, on the host."""
    found = []
    for one, other in zip(first, second, strict=True):
        whole = f"int{8 * one.itemsize}"
        found.append(xp.all(one.view(whole) == other.view(whole), axis=1))
    return np.asarray((found[0] & found[1]).tolist())


def taken(backend: Backend, state: Both, places: np.ndarray) -> Both:
    """Some rows of a state, copied."""
    at = backend.asarray(places, "int64")
    h, c = (part[at, ...] for part in state)
    return h, c


def joined(backend: Backend, states: Sequence[Both]) -> Both:
    """States below each other."""
    h, c = (backend.xp.concat(parts, axis=0) for parts in zip(*states, strict=True))
    return h, c


def _once(made: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What is made of a weight, which doesn't change within a call, without looking at it again."""
    found: dict[Any, Any] = {}

    def get(make: Any) -> Any:
        if make not in found:
            found[make] = made(make)
        return found[make]

    return get
