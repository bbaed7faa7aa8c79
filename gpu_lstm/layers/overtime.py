"""One long sequence in parallel over time, for inference: segments of it as a batch, until all seams agree to the bit.

Two runs of an LSTM from different states come together, for it forgets. So the steps are cut into segments, which run
as a batch, each but the first from a guess of its state; then each is given the state in which the one before it ended,
and runs again until it meets its earlier run: from there on nothing changes. When no start changes any more, every step
was computed from the very state that the step before left, which is what running in sequence gives, to the last bit.

In float32, runs come together up to rounding errors and stay so: with more than some hundred units, one difference in a
last bit makes several others. So "rounded" rounds the state every `STEPS` steps, in sequence and in parallel alike.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError
from gpu_lstm.layers.call import Member, Pair, Work
from gpu_lstm.layers.schedule import ONE_SEGMENT, Pass
from gpu_lstm.layers.strand import STEPS, Both, Strand, same
from gpu_lstm.layers.walk import Ran
from gpu_lstm.recurrence import Plan, Tier

MODES = ("exact", "rounded")
BITS = {"float32": 15, "float64": 42}
"""Binary places of h and c that are left when the state is rounded; of c above 1 as many fewer as it is larger."""
LEAST_STEPS = 4096
"""Steps below which nothing is tried."""
MOST_SEQUENCES = 8
"""Sequences above which nothing is tried: a batch as large leaves too little to gain."""
SEGMENTS = (4, 8, 16, 32, 64)
TRIAL = 0.03
"""Share of the time in sequence that finding out may take."""
GAIN = 0.9
"""Share of the time in sequence that has to be expected at most."""


@dataclass(frozen=True)
class Report:
    """How a layer in one direction went through a call's steps."""

    member: Member
    steps: int
    segments: int  # 1: in sequence
    passes: int
    forgets: int  # steps until a wrong state was forgotten, where that was found out; else 0
    expected: float  # times as fast as in sequence, as expected when that was decided
    had: float  # and as it was, by the time that steps in sequence took
    why: str  # it ran as it did

    def __str__(self) -> str:
        if self.segments == 1:
            return f"over time, {self.member.name}: {self.steps:,} steps in sequence: {self.why}"
        return (
            f"over time, {self.member.name}: {self.steps:,} steps, {self.segments} segments, {self.passes} passes, "
            f"a state is forgotten in {self.forgets:,} steps; {self.expected:.1f} times as fast expected, "
            f"{self.had:.1f} had{self.why}"
        )


def check(mode: Any, tier: Tier) -> bool:
    """Return whether an LSTM's `parallel` asks for rounding; raises InputError where it is none, or the tier's none."""
    if mode is not False and not (isinstance(mode, str) and mode in MODES):
        raise InputError(f"parallel is {mode!r}; expected False, {' or '.join(map(repr, MODES))}")
    if mode == "exact" and not tier.steady:
        raise InputError(
            "parallel is 'exact'; expected 'rounded' or False, as on this tier a sequence's last bits depend on its "
            "batch, and so on the segments"
        )
    return mode == "rounded"


def reported(plan: Plan, pieces: list[tuple[Any, Any, list[Report]]]) -> Plan:
    """Return the plan with what came of a call over time, pass by pass."""
    return replace(plan, over_time=tuple(report for *_, reports in pieces for report in reports))


def forward(work: Work, pass_: Pass, x: Array, states: dict[Member, Pair]) -> tuple[Ran, list[Report]]:
    """Run a pass over x (T, B, .), as `walk.forward` does for inference, and report on each of its members."""
    bits = BITS[work.sizes.param_dtype] if check(work.parallel, work.tier) else 0
    ran, reports = Ran({}, {}, {}), []
    for member in pass_.members:
        above = member.layer > pass_.first_layer
        entering = ran.outputs[member.direction] if above else x
        strand = Strand(work, member, entering, bits)
        ran.states[member], report = _over_time(strand, *states[member])
        reports.append(report)
        ran.outputs[member.direction] = strand.y + entering if work.options.residual and above else strand.y
        if strand.cells is not None:
            ran.cells[member.direction] = strand.cells
    return ran, reports


@dataclass
class Course:
    """A strand on its way: how far it is, in chunks of `STEPS`, and what was found out of it."""

    strand: Strand
    state: Both
    done: int = 0  # chunks
    seconds: float = 0.0  # that a step in sequence takes
    forgets: int = 0  # chunks until a wrong state is forgotten; 0: unknown

    def __post_init__(self) -> None:
        steps = self.strand.work.call.steps
        borders = np.arange(0, steps, STEPS)
        # In the order in which they run; in time they are multiples of `STEPS`.
        self.edges = np.append(borders, steps) if not self.strand.reverse else np.append(0, steps - borders[::-1])
        self.rows = np.arange(self.strand.work.call.batch)

    @property
    def chunks(self) -> int:
        """How many are whole, from `done` on, and can run beside each other."""
        return len(self.edges) - 1 - self.done - int(self.edges[-1] - self.edges[-2] < STEPS)

    def along(self, stop: int) -> None:
        """Run in sequence up to chunk `stop`."""
        most = 1 if self.strand.bits else max(ONE_SEGMENT // len(self.rows) // STEPS, 1)
        while self.done < stop:
            after = min(self.done + most, stop)
            first, count = self.edges[self.done], int(self.edges[after] - self.edges[self.done])
            self.state = self.strand.run(np.full(len(self.rows), first), count, self.rows, self.state)
            self.done = after


def _over_time(strand: Strand, h: Array | None, c: Array | None) -> tuple[Both, Report]:
    """Run a strand from a state to its end."""
    began, steps, batch = time.perf_counter(), strand.work.call.steps, strand.work.call.batch
    course = Course(strand, strand.begin(h, c))
    first, segments, passes, expected, why = course.state, 1, 1, 1.0, ""
    if steps < LEAST_STEPS:
        why = f"fewer than {LEAST_STEPS:,} steps"
    elif batch > MOST_SEQUENCES:
        why = f"more than {MOST_SEQUENCES} sequences"
    else:
        segments, expected, why = _find_out(course, first)
        if segments > 1:
            passes, why = _relay(course, segments)
    course.along(len(course.edges) - 1)
    had = steps * course.seconds / (time.perf_counter() - began) if segments > 1 else 1.0
    return course.state, Report(strand.member, steps, segments, passes, course.forgets * STEPS, expected, had, why)


def _clocked(course: Course, segments: int, again: int = 3, count: int = 8) -> float:
    """Seconds a step takes with so many segments at once in a call of a few steps, the least of some tries."""
    batch, xp = segments * len(course.rows), course.strand.work.sizes.backend.xp
    firsts = course.edges[course.done] + np.arange(batch) // len(course.rows) * (course.chunks // segments) * STEPS
    rows, seconds = np.tile(course.rows, segments), []
    state = tuple(xp.concat([part] * segments, axis=0) for part in course.state)
    for _ in range(again):
        began = time.perf_counter()
        course.strand.run(firsts, count, rows, state, write=0)
        seconds.append((time.perf_counter() - began) / count)
    return min(seconds)


def _find_out(course: Course, first: Both) -> tuple[int, float, str]:
    """Go so far in sequence that it is known into how many segments to cut the rest, how much it gains, or why not."""
    began = time.perf_counter()
    course.along(2)
    course.seconds = (time.perf_counter() - began) / int(course.edges[2])
    left, steady = course.chunks, course.strand.work.tier.steady
    until = time.perf_counter() + left * STEPS * course.seconds * TRIAL / 2
    one = _clocked(course, 1) if steady else 0.0

    def rate(segments: int) -> float:
        """Of a step of so many segments, as many times as that of one."""
        # Where the last bits depend on the batch, what is chosen must not depend on a clock.
        return 1 + max(_clocked(course, segments) - one, 0.0) / course.seconds if steady else 1.0

    rates: dict[int, float] = {}
    for segments in SEGMENTS:
        if left < 2 * segments or time.perf_counter() > until:
            break
        rates[segments] = rate(segments)

    def share(segments: int, forgets: int) -> float:
        """Of the time in sequence."""
        return (-(-left // segments) + forgets) * rates[segments] / left

    most = max((int(left * GAIN / r) - -(-left // p) for p, r in rates.items()), default=0)
    if most < 2:
        told = ", ".join(f"{p} take {r:.1f} times as long as one" for p, r in rates.items())
        return 1, 1.0, f"no segments would pay: {told}"
    beside = max(min(rate(2), *rates.values()) - 1, 0.05) if steady else 0.5
    most = min(most, max(int(left * TRIAL / beside), 2))
    if not _probe(course, first, most):
        return 1, 1.0, f"a wrong state is not forgotten in {most * STEPS:,} steps, the most that would pay to look for"
    best = min(rates, key=lambda segments: share(segments, course.forgets + 1))
    if share(best, course.forgets + 1) > GAIN:
        told = f"a wrong state is forgotten in {course.forgets * STEPS:,} steps"
        return 1, 1.0, f"{told}, and {best} segments would take {share(best, course.forgets + 1):.2f} of the time"
    return best, 1 / share(best, course.forgets + 1), ""


def _probe(course: Course, wrong: Both, most: int) -> bool:
    """Go on in sequence, and beside it from a wrong state, until both are the same, at most so many chunks."""
    strand, xp = course.strand, course.strand.work.sizes.backend.xp
    full = np.flatnonzero(strand.lengths == strand.work.call.steps)
    batch, rows = len(course.rows), np.append(course.rows, full)
    chosen = strand.work.sizes.backend.asarray(full, "int64")
    state = tuple(xp.concat([r, w[chosen, ...]], axis=0) for r, w in zip(course.state, wrong, strict=True))
    for number in range(1, most + 1 if len(full) else 0):
        state = strand.run(np.full(len(rows), course.edges[course.done]), STEPS, rows, state, write=batch)
        course.state, course.done = tuple(part[:batch, ...] for part in state), course.done + 1
        if same(xp, tuple(p[chosen, ...] for p in course.state), tuple(p[batch:, ...] for p in state)).all():
            course.forgets = number
            return True
    return False


def _relay(course: Course, segments: int) -> tuple[int, str]:
    """Run all whole chunks that are left as so many segments, in passes until no start of one changes any more.

    Returns the number of passes, and what is to be said of them.
    """
    strand, xp, batch = course.strand, course.strand.work.sizes.backend.xp, len(course.rows)
    sizes = np.full(segments, course.chunks // segments) + (np.arange(segments) < course.chunks % segments)
    begins = course.edges[course.done + np.append(0, np.cumsum(sizes))[:-1]]
    sizes, begins, rows = np.repeat(sizes, batch), np.repeat(begins, batch), np.tile(course.rows, segments)
    # Where a sequence has no step in a segment, its state stays what it is: nothing runs.
    time_of = strand.work.call.steps - begins - sizes * STEPS if strand.reverse else begins
    runs = strand.lengths[rows] > time_of
    starts = tuple(xp.concat([part] * segments, axis=0) for part in course.state)
    ends = tuple(xp.asarray(part, copy=True) for part in starts)
    seen: list[Both] = []  # of each chunk of a segment, the state after it
    waiting, passes, why, alone, last = runs.copy(), 0, "", False, 0.0
    while waiting.any():
        passes += 1
        pairs = np.flatnonzero(waiting)
        if alone:  # of each sequence the first that waits, which starts from what is right
            pairs = pairs[np.unique(rows[pairs], return_index=True)[1]]
        waiting[pairs] = False
        ended = _pass(strand, seen, starts, ends, (pairs, sizes, begins, rows))
        after = ended + batch
        ended, after = ended[after < len(rows)], after[after < len(rows)]
        ended, after = ended[runs[after]], after[runs[after]]
        waiting[after] = True
        moved = 0.0
        for start, end in zip(starts, ends, strict=True) if len(after) else ():
            before, now = start[_index(strand, after), ...], end[_index(strand, ended), ...]
            moved = max(moved, float(xp.max(xp.abs(now - before))))
            start[_index(strand, after), ...] = now
        if passes > 1 and not alone and len(after) and not moved <= last / 2:
            alone = True
            why = f"; from pass {passes + 1} on one segment after the other, for they did not come closer together"
        last = moved
    for row in course.rows:
        final = np.flatnonzero(runs & (rows == row))[-1:]
        for part, end in zip(course.state, ends, strict=True) if len(final) else ():
            part[row, ...] = end[int(final[0]), ...]
    course.done += course.chunks
    return passes, why


def _pass(strand: Strand, seen: list[Both], starts: Both, ends: Both, pairs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Run pairs of a segment and a sequence until each meets its earlier run; return those that went to their end."""
    (now, sizes, begins, rows), xp = pairs, strand.work.sizes.backend.xp
    state = tuple(start[_index(strand, now), ...] for start in starts)
    ended = []
    for number in range(int(sizes[now].max())):
        state = strand.run(begins[now] + number * STEPS, STEPS, rows[now], state)
        place, met = _index(strand, now), np.zeros(len(now), bool)
        if number == len(seen):
            seen.append(tuple(xp.zeros_like(start) for start in starts))
        else:
            met = same(xp, state, tuple(part[place, ...] for part in seen[number]))
        over = ~met & (sizes[now] == number + 1)
        for part, before, end in zip(state, seen[number], ends, strict=True):
            before[place, ...] = part
            end[_index(strand, now[over]), ...] = part[_index(strand, np.flatnonzero(over)), ...]
        ended.append(now[over])
        on = ~met & ~over
        if not on.any():
            break
        if not on.all():
            kept = _index(strand, np.flatnonzero(on))
            now, state = now[on], tuple(part[kept, ...] for part in state)
    return np.sort(np.concatenate(ended))


def _index(strand: Strand, places: np.ndarray) -> Array:
    return strand.work.sizes.backend.asarray(places, "int64")
