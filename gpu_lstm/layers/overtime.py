"""One long sequence in parallel over time, for inference: segments of it as a batch, until all seams agree to the bit.

Two runs of an LSTM from different states come together, for it forgets. So the steps are cut into segments, which run
as a batch, each but the first from a guess of its state; then each is given the state in which the one before it ended,
and runs again until it meets its earlier run: from there on nothing changes. When no start changes any more, every step
was computed from the very state that the step before left, which is what running in sequence gives, to the last bit.

In float32, runs come together up to rounding errors and stay so: with more than some hundred units, one difference in a
last bit makes several others. So "rounded" rounds the state every `STEPS` steps, in sequence and in parallel alike.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError
from gpu_lstm.layers.call import Member, Pair, Work
from gpu_lstm.layers.schedule import Pass
from gpu_lstm.layers.settle import settle
from gpu_lstm.layers.strand import STEPS, Both, Strand, joined, same, taken
from gpu_lstm.layers.walk import Ran
from gpu_lstm.recurrence import Plan, Tier

MODES = ("exact", "rounded")
PLACES = {"float32": 15, "float64": 42}
"""Binary places of h and c that are left when the state is rounded; of c above 1 as many fewer as it is larger."""
EXACT = {"float32": 2.0**-26, "float64": 2.0**-55}
"""How close runs come that are yet to become equal without being rounded: half a last bit of numbers up to 1/2."""
LEAST_STEPS = 4096
"""Steps below which nothing is tried."""
MOST_SEQUENCES = 8
"""Sequences above which nothing is tried: a batch as large leaves too little to gain."""
SEGMENTS = (8, 16, 32, 64)
TRIAL = 0.06
"""Share of the steps beside which a run from a wrong state may go: each takes up to half as long again for it."""
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
    places = PLACES[work.sizes.param_dtype] if check(work.parallel, work.tier) else 0
    ran, reports = Ran({}, {}, {}), []
    for member in pass_.members:
        above = member.layer > pass_.first_layer
        entering = ran.outputs[member.direction] if above else x
        strand = Strand(work, member, entering, places)
        ran.states[member], report = _over_time(strand, *states[member])
        reports.append(report)
        ran.outputs[member.direction] = strand.y + entering if work.options.residual and above else strand.y
        if strand.cells is not None:
            ran.cells[member.direction] = strand.cells
    return ran, reports


@dataclass
class Course:
    """A strand on its way in sequence: how far it is, in chunks, and what was found out of it."""

    strand: Strand
    state: Both
    done: int = 0
    seconds: float = 0.0  # that a step takes
    forgets: int = 0  # chunks until a wrong state is forgotten; 0: unknown

    @property
    def left(self) -> int:
        """Chunks that are left and whole; the short one, if there is one, is the first or the last in time."""
        edges = self.strand.edges
        return len(edges) - 1 - self.done - int(edges[-1] - edges[-2] < STEPS)

    def along(self, stop: int) -> None:
        """Run in sequence up to a chunk."""
        self.state = self.strand.along(self.done, stop, self.state)
        self.done = stop

    def timed(self) -> float:
        """Run a chunk in sequence; return the seconds that a step took."""
        began, first = time.perf_counter(), self.strand.edges[self.done]
        self.along(self.done + 1)
        return (time.perf_counter() - began) / int(self.strand.edges[self.done] - first)


def _over_time(strand: Strand, h: Array | None, c: Array | None) -> tuple[Both, Report]:
    """Run a strand from a state to its end."""
    began, steps, batch = time.perf_counter(), strand.work.call.steps, strand.work.call.batch
    course = Course(strand, strand.begin(h, c))
    segments, passes, expected, had = 1, 1, 1.0, 1.0
    if steps < LEAST_STEPS:
        why = f"fewer than {LEAST_STEPS:,} steps"
    elif batch > MOST_SEQUENCES:
        why = f"more than {MOST_SEQUENCES} sequences"
    else:
        segments, expected, why = _choose(course)
    if segments > 1:
        course.done, course.state, passes, why = settle(strand, course.state, course.done, course.left, segments)
    course.along(len(strand.edges) - 1)
    if segments > 1:
        had = steps * course.seconds / (time.perf_counter() - began)
    return course.state, Report(strand.member, steps, segments, passes, course.forgets * STEPS, expected, had, why)


def _choose(course: Course) -> tuple[int, float, str]:
    """Go so far in sequence that it is known into how many segments to cut the rest, how much it gains, or why not."""
    wrong, seconds = course.state, course.timed()
    most = max(int(course.left * TRIAL), 2)
    tried, apart = _forget(course, wrong, most)
    if apart > 0:
        told = f"a wrong state is not forgotten in {tried * STEPS:,} steps, after which {apart:.0e} is left of it"
        return 1, 1.0, f"{told}, nor to be in {most * STEPS:,}, the most that would pay to look for"
    course.forgets = tried
    course.seconds = min(seconds, course.timed())  # the other work of a machine may disturb one of them
    shares = _shares(course)
    best = min(shares, key=lambda segments: shares[segments])
    if shares[best] > GAIN:
        told = f"a wrong state is forgotten in {tried * STEPS:,} steps"
        return 1, 1.0, f"{told}, and {best} segments would take {shares[best]:.2f} of the time"
    return best, 1 / shares[best], ""


def _forget(course: Course, wrong: Both, most: int) -> tuple[int, float]:
    """Go on in sequence, and beside it from a wrong state, until both are the same or it is seen that they won't be.

    Returns the chunks that took, at most `most`, and how far apart they are then, of c above 1 as a share of it.
    """
    strand, backend = course.strand, course.strand.work.sizes.backend
    full, batch = np.flatnonzero(strand.lengths == strand.work.call.steps), strand.work.call.batch
    rows, tiny = np.append(np.arange(batch), full), 2.0**-strand.places if strand.places else EXACT[str(strand.dtype)]
    state, apart = joined(backend, [course.state, taken(backend, wrong, full)]), [math.inf]
    for number in range(1, most + 1 if len(full) else 0):
        state = strand.run(np.full(len(rows), strand.edges[course.done]), STEPS, rows, state, write=batch)
        course.state, course.done = taken(backend, state, np.arange(batch)), course.done + 1
        right, other = taken(backend, state, full), taken(backend, state, np.arange(batch, len(rows)))
        if same(backend.xp, right, other).all():
            return number, 0.0
        apart.append(
            max(_distance(backend.to_numpy(r), backend.to_numpy(o)) for r, o in zip(right, other, strict=True))
        )
        half = (number + 1) // 2
        closer = min(apart[number] / apart[half], 1.0) ** (1 / max(number - half, 1))  # in a chunk
        if number > 1 and apart[number] * closer ** (most - number) > tiny:
            break
    return len(apart) - 1, apart[-1]


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest between numbers of two arrays, of those above 1 as a share of them; above 0 in any case."""
    apart = float((np.abs(one - other) / np.maximum(np.abs(one), 1)).max())
    return max(apart, 1e-30) if apart < math.inf else math.inf


def _shares(course: Course) -> dict[int, float]:
    """What the steps that are left would take in so many segments, of their time in sequence."""
    clocked, one, shares = course.strand.work.tier.steady, 0.0, {1: 1.0}
    for segments in SEGMENTS:
        length, rate = -(-course.left // segments), 1.0
        if course.left // segments < max(course.forgets, 2):
            break
        # Where the last bits depend on the batch, what is chosen must not depend on a clock.
        if clocked:
            one = one or _clocked(course, 1)
            rate += max(_clocked(course, segments) - one, 0.0) / course.seconds
        shares[segments] = rate * (length + course.forgets + 1) / course.left  # some take a chunk more to forget
        if shares[segments] > min(shares.values()):
            break
    return shares


def _clocked(course: Course, segments: int, count: int = 8) -> float:
    """Seconds a step takes with so many segments at once in a call of a few steps, if that is short the less of two."""
    strand, batch, seconds = course.strand, course.strand.work.call.batch, [0.0]
    rows, state = np.tile(np.arange(batch), segments), joined(strand.work.sizes.backend, [course.state] * segments)
    firsts = strand.edges[course.done + np.arange(len(rows)) // batch * (course.left // segments)]
    while len(seconds) < 3 and seconds[-1] < 1e-3:
        began = time.perf_counter()
        strand.run(firsts, count, rows, state, write=0)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:]) / count
