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
        most = 1 if self.places else max(ONE_SEGMENT // self.work.call.batch // STEPS, 1)
        while chunk < stop:
            after = stop if self.whole else min(chunk + most, stop)
            first, end = int(self.edges[chunk]), int(self.edges[after])
            state, chunk = self.run(first, end - first, None, state), after
        return state

    def run(self, firsts: int | np.ndarray, count: int, rows: np.ndarray | None, state: Both) -> Both:
        """Run `count` steps of some sequences, and return the state after; where that is rounded, from edges on.

        `firsts`: of each of the sequences `rows` (n,) the first step. Or one for all: then `rows` begin with all
        sequences, in order, what is beyond these is not kept, and None is nothing beyond.
        """
        starts = self.work.call.steps - firsts - count if self.reverse else firsts
        at, more = self._places(starts, count, rows)
        if self.whole is None:
            y, cells, last = self._by_tier(at, more, self._mask(starts, count, rows), state)
            last = self._rounded(starts, count, rows, y, cells, last)
        else:
            sizes, kept, name, h = self.work.sizes, self.work.kept, self.member.name, None
            if isinstance(at, slice) and more is None:
                h = self.slots[at.start : at.stop + 1, ...]
            weights = kept[f"weight_ih_{name}"], self.work.params.get(f"bias_{name}"), kept[f"weight_hh_{name}"]
            rounding = (STEPS, self.places) if self.places else NEVER
            x = self._read(self.x, at, more)
            found, c = begun(sizes.backend, (len(x) + 1, x.shape[1], sizes.hidden_size), x.dtype, *state, h)
            self.whole(x, found, c, *weights, rounding)(x, found, c)
            y, cells, last = None if found is h else found[1:, ...], None, (found[-1, ...], c[0, ...])
        for all_, part in ((self.y, y), (self.cells, cells)):
            if all_ is not None and part is not None:
                all_[at] = part if more is None else part[:, : self.work.call.batch, ...]
        return last

    def _by_tier(self, at: Any, more: Any, mask: Mask | None, state: Both) -> tuple[Array, Array | None, Both]:
        """Outputs, c where it is handed out, and the state after, by the tier."""
        work, xp, weight, variant = self.work, self.work.sizes.backend.xp, f"weight_hh_{self.member.name}", self.variant
        if variant is not None and variant.live is not None:
            variant = replace(variant, live=self._read(variant.live, at, more))
        z, keep = members.enter(work, self.member, self._read(self.x, at, more)).z, self.cells is not None
        weights = work.params[weight], work.kept.get(weight)
        problem = Problem(z, weights[0], *state, mask, self.reverse, keep, variant, kept=weights[1])
        (saved,) = work.tier.forward(work.sizes.backend, [problem])
        return valid(xp, mask, saved.outputs), valid(xp, mask, saved.c_after) if keep else None, saved.last

    def _places(self, starts: Any, count: int, rows: np.ndarray | None) -> tuple[Any, Any]:
        """An index of arrays (T, B, .), and the sequences to take of what it gives; None: all."""
        asarray = self.work.sizes.backend.asarray
        if isinstance(starts, int):
            return slice(starts, starts + count), None if rows is None else asarray(rows, "int64")
        assert rows is not None
        return (asarray(starts + np.arange(count)[:, None], "int64"), asarray(rows[None, :], "int64")), None

    def _read(self, array: Array, at: Any, more: Any) -> Array:
        """What `_places` name of an array: a view where that is all sequences beside each other."""
        return array[at] if more is None else self.work.sizes.backend.xp.take(array[at], more, axis=1)

    def _mask(self, starts: Any, count: int, rows: np.ndarray | None) -> Mask | None:
        """Return which of those steps belong to the sequences."""
        lengths = np.clip((self.lengths if rows is None else self.lengths[rows]) - starts, 0, count)
        if lengths.min() == count:
            return None
        inside = np.arange(count)[:, None, None] < lengths[None, :, None]
        return Mask(lengths.astype(np.int64), self.work.sizes.backend.asarray(inside, "bool"))

    def _rounded(
        self, starts: Any, count: int, rows: np.ndarray | None, y: Array, cells: Array | None, state: Both
    ) -> Both:
        """A copy of the state, of sequences that are at an edge and not beyond their end rounded, as y is there."""
        sizes, xp, border = self.work.sizes, self.work.sizes.backend.xp, starts if self.reverse else starts + count
        lengths = self.lengths if rows is None else self.lengths[rows]
        inside = lengths > border if self.reverse else lengths >= border
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
