"""Segments of a strand beside each other, from guesses of their states, until no start of one changes any more.

The state before each chunk is noted, of every sequence: what the last run of the chunk before it gave or, where a
segment begins, a guess at first. A lane is a segment of one sequence. In a pass, lanes run as a batch, chunk by chunk;
each notes its state before the next chunk, and is over

- at its end: where another state lay there, the lane that begins there has to run, in the next pass;
- from the second pass on, where the same state lay there: what comes after would be what it was.

When no lane has to run, every chunk has run from the state that the one before it left: as in sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.layers.strand import STEPS, Both, Strand, same, taken


class Lanes(NamedTuple):
    """Segments of each sequence, (n,), by segment and then by sequence: `batch` further on is what comes next."""

    first: np.ndarray  # chunk
    stop: np.ndarray  # chunk
    row: np.ndarray  # sequence
    steps: np.ndarray  # bool: it has any; where not, its state stays what it is


def settle(strand: Strand, state: Both, first: int, count: int, segments: int) -> tuple[int, Both, int, str]:
    """Run `count` chunks from `first` on, where the state is known, as so many segments.

    Returns the chunk up to which all is as in sequence, the state there, how many passes that took, and why it isn't
    all of them, if it isn't.
    """
    backend, batch, why, passes = strand.work.sizes.backend, strand.work.call.batch, "", 0
    lanes, done = _lanes(strand, first, count, segments), first + count
    before = _repeated(backend, state[0], done + 1), _repeated(backend, state[1], done + 1)  # by chunk, by sequence
    now = np.flatnonzero(lanes.steps)
    while len(now):
        passes, ran = passes + 1, len(now)
        now = _pass(strand, before, lanes, now, again=passes > 1)
        if passes > 1 and len(now) > ran / 2:
            done = int(lanes.first[now].min())
            why = f"; from step {strand.edges[done]:,} on in sequence, for too many segments had another start again"
            break
    # Of a sequence that is over, the state is where its last lane ended.
    ends = np.full(batch, done)
    ends[lanes.row[lanes.steps]] = np.minimum(lanes.stop[lanes.steps], done)
    return done, taken(backend, before, ends * batch + np.arange(batch)), passes, why


def _repeated(backend: Backend, part: Array, times: int) -> Array:
    """Rows (B, .) so many times below each other."""
    whole = backend.empty((times, *part.shape), part.dtype)
    whole[...] = part
    return backend.xp.reshape(whole, (-1, part.shape[1]))


def _pass(strand: Strand, before: Both, lanes: Lanes, now: np.ndarray, again: bool) -> np.ndarray:
    """Run the lanes `now` until each is over; return those that have to run next."""
    backend, batch, chunk, next_ = strand.work.sizes.backend, strand.work.call.batch, lanes.first[now], []
    state = taken(backend, before, chunk * batch + lanes.row[now])
    while len(now):
        state = strand.run(strand.edges[chunk], STEPS, lanes.row[now], state)
        chunk = chunk + 1
        place, ended = chunk * batch + lanes.row[now], chunk == lanes.stop[now]
        equal = np.zeros(len(now), bool)
        if again or ended.any():
            equal = same(backend.xp, state, taken(backend, before, place))
        for part, found in zip(before, state, strict=True):
            part[backend.asarray(place, "int64"), ...] = found
        next_.append(now[ended & ~equal] + batch)
        on = np.flatnonzero(~ended & ~equal if again else ~ended)
        now, chunk, state = now[on], chunk[on], taken(backend, state, on)
    changed: np.ndarray = np.concatenate(next_)
    changed = np.sort(changed[changed < len(lanes.row)])
    return np.extract(lanes.steps[changed], changed)


def _lanes(strand: Strand, first: int, count: int, segments: int) -> Lanes:
    """Segments of nearly equal length."""
    borders = first + np.arange(segments + 1) * count // segments
    batch, edges = len(strand.lengths), strand.edges
    begins, stops = (np.repeat(part, batch) for part in (borders[:-1], borders[1:]))
    rows = np.tile(np.arange(batch), segments)
    time = edges[-1] - edges[stops] if strand.reverse else edges[begins]
    return Lanes(begins, stops, rows, strand.lengths[rows] > time)
