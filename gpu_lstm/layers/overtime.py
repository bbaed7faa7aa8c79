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

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.call import Call, Member, Pair, Sizes, Work
from gpu_lstm.layers.schedule import Pass
from gpu_lstm.layers.settle import settle
from gpu_lstm.layers.strand import STEPS, Both, Strand, joined, same, taken
from gpu_lstm.layers.walk import Ran
from gpu_lstm.recurrence import Plan, Tier
from gpu_lstm.recurrence.inference import NEVER

MODES = ("exact", "rounded")
PLACES = {"float32": 15, "float64": 42}
"""Binary places of h and c that are left when the state is rounded; of c above 1 as many fewer as it is larger."""
EXACT = {"float32": 2.0**-26, "float64": 2.0**-55}
"""How close runs come that are yet to become equal without being rounded: half a last bit of numbers up to 1/2."""
LEAST_STEPS = 4096
"""Steps below which nothing is tried."""
LEAST_WORK = 1 << 32
"""Multiply-adds with W_hh, some 100 ms, below which nothing is tried on a CPU: to find out what pays takes 1 or 2."""
MOST_SEQUENCES = 8
"""Sequences above which nothing is tried: a batch as large leaves too little to gain."""
SEGMENTS = (4, 8, 16, 32, 64)
CLOCKED = 8, 2e-4
"""Steps, and what they take of one sequence, at least, by which it is found out how long they take with segments."""
TRIAL = 0.06
"""Share of the steps beside which a run from a wrong state may go: each takes up to half as long again for it."""
GAIN = 0.9
"""Share of the time in sequence that has to be expected at most."""
MORE = 0.95
"""Share of the time with half as many segments that has to be expected at most, for what runs again costs more."""


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


def planned(
    plan: Plan, parallel: str | bool, sizes: Sizes, members: list[Member], call: Call
) -> tuple[Plan, tuple[int, int], bool]:
    """Return how a call goes through time: after how many steps and to what it rounds, and whether segments are tried.

    If not, the plan that is returned with it says why.
    """
    rounding = (STEPS, PLACES[sizes.param_dtype]) if check(parallel, plan.run) else NEVER
    if why := _refusal(plan.run, sizes, call):
        plan = replace(plan, over_time=tuple(Report(member, call.steps, 1, 1, 0, 1.0, 1.0, why) for member in members))
    return plan, rounding, not why


def _refusal(tier: Tier, sizes: Sizes, call: Call) -> str:
    """Why segments are not tried; empty if they are."""
    if call.steps < LEAST_STEPS:
        return f"fewer than {LEAST_STEPS:,} steps"
    if call.batch > MOST_SEQUENCES:
        return f"more than {MOST_SEQUENCES} sequences"
    if tier.steady and call.steps * call.batch * 4 * sizes.hidden_size * sizes.output_size < LEAST_WORK:
        return f"fewer than {LEAST_WORK:.0e} multiply-adds with W_hh"
    return ""


def reported(plan: Plan, pieces: list[tuple[Any, Any, list[Report]]]) -> Plan:
    """Return the plan with what came of a call over time, pass by pass."""
    return replace(plan, over_time=tuple(report for *_, reports in pieces for report in reports))


def forward(work: Work, pass_: Pass, x: Array, states: dict[Member, Pair]) -> tuple[Ran, list[Report]]:
    """Run a pass over x (T, B, .), as `walk.forward` does for inference, and report on each of its members."""
    places = PLACES[work.sizes.param_dtype] if work.parallel == "rounded" else 0
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
    chunk: float = 0.0  # seconds that one takes, with what is around a call
    around: float = 0.0  # and seconds of these that a chunk more in the same call wouldn't take
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
        """Run a chunk in sequence; return the seconds that took."""
        began = time.perf_counter()
        self.along(self.done + 1)
        return time.perf_counter() - began

    def alone(self) -> float:
        """Seconds that a chunk takes in sequence."""
        return self.chunk - (self.around if self.strand.whole else 0.0)

    def share(self, segments: int, more: float) -> float:
        """Of the time in sequence, if a segment beside the first one takes so many seconds more for a chunk."""
        chunks = -(-self.left // segments) + self.forgets + 1  # some take a chunk more to forget
        return chunks * (self.chunk + (segments - 1) * more) / (self.left * self.alone())


def _over_time(strand: Strand, h: Array | None, c: Array | None) -> tuple[Both, Report]:
    """Run a strand from a state to its end."""
    began, work = time.perf_counter(), strand.work
    steps, why = work.call.steps, _refusal(work.tier, work.sizes, work.call)
    course = Course(strand, strand.begin(h, c))
    segments, passes, expected, had = 1, 1, 1.0, 1.0
    if not why:
        segments, expected, why = _choose(course)
    if segments > 1:
        course.done, course.state, passes, why = settle(strand, course.state, course.done, course.left, segments)
    course.along(len(strand.edges) - 1)
    if segments > 1:
        had = steps / STEPS * course.alone() / (time.perf_counter() - began)
    return course.state, Report(strand.member, steps, segments, passes, course.forgets * STEPS, expected, had, why)


def _choose(course: Course) -> tuple[int, float, str]:
    """Go so far in sequence that it is known into how many segments to cut the rest, how much it gains, or why not."""
    wrong, chunk = course.state, course.timed()
    most = max(int(course.left * TRIAL), 2)
    tried, apart = _forget(course, wrong, most)
    if apart > 0:
        told = f"a wrong state is not forgotten in {tried * STEPS:,} steps, after which {apart:.0e} is left of it"
        return 1, 1.0, f"{told}, nor to be in {most * STEPS:,}, the most that would pay to look for"
    course.forgets = tried
    course.chunk = min(chunk, course.timed())  # the other work of a machine may disturb one of them
    segments, share = _segments(course)
    if share > GAIN:
        told = f"a wrong state is forgotten in {tried * STEPS:,} steps"
        return 1, 1.0, f"{told}, and {segments} segments would take {share:.2f} of the time"
    return segments, 1 / share, ""


def _forget(course: Course, wrong: Both, most: int) -> tuple[int, float]:
    """Go on in sequence, and beside it from a wrong state, until both are the same or it is seen that they won't be.

    Returns the chunks that took, at most `most`, and how far apart they are then, of c above 1 as a share of it.
    """
    strand, backend = course.strand, course.strand.work.sizes.backend
    full, batch = np.flatnonzero(strand.lengths == strand.work.call.steps), strand.work.call.batch
    rows, tiny = np.append(np.arange(batch), full), 2.0**-strand.places if strand.places else EXACT[str(strand.dtype)]
    state, apart = joined(backend, [course.state, taken(backend, wrong, full)]), [math.inf]
    for number in range(1, most + 1 if len(full) else 0):
        state = strand.run(int(strand.edges[course.done]), STEPS, rows, state)
        h, c = state
        course.state, course.done = (h[:batch, ...], c[:batch, ...]), course.done + 1
        right, other = taken(backend, state, full), (h[batch:, ...], c[batch:, ...])
        apart.append(_distance(backend, right, other))
        if apart[-1] == 0 and same(backend.xp, right, other).all():
            return number, 0.0
        apart[-1] = max(apart[-1], 1e-30)
        half = (number + 1) // 2
        closer = min(apart[number] / apart[half], 1.0) ** (1 / max(number - half, 1))  # in a chunk
        if number > 1 and apart[number] * closer ** (most - number) > tiny:
            break
    return len(apart) - 1, apart[-1]


def _distance(backend: Backend, one: Both, other: Both) -> float:
    """The largest between numbers of two states, of those above 1 as a share of them."""
    found = 0.0
    for pair in zip(one, other, strict=True):
        a, b = (backend.to_numpy(part) for part in pair)
        apart = float((np.abs(a - b) / np.maximum(np.abs(a), 1)).max())
        found = max(found, apart if apart < math.inf else math.inf)
    return found


def _segments(course: Course) -> tuple[int, float]:
    """Into how many segments to cut the steps that are left, and the share that takes of their time in sequence."""
    # Where the last bits depend on the batch, what is chosen must not depend on a clock.
    clocked, best, share, more = course.strand.work.tier.steady, 1, 1.0, 0.0
    if clocked:
        count = min(max(CLOCKED[0], math.ceil(CLOCKED[1] / course.chunk * STEPS)), STEPS // 2)
        one = _clocked(course, 1, count)
        around = (one * STEPS - course.chunk * count) / (STEPS - count)
        course.around = min(max(around, 0.0), course.chunk / 2)
    for segments in SEGMENTS:
        if course.left // segments < max(course.forgets, 2):
            break
        if best > 1 and course.share(segments, more) > share * MORE:
            break  # by what each of fewer took, which saves clocking it
        if clocked:
            more = max(_clocked(course, segments, count) - one, 0.0) / (segments - 1) * STEPS / count
        found = course.share(segments, more)
        if best > 1 and found > share * MORE:
            break
        best, share = segments, found
    return best, share


def _clocked(course: Course, segments: int, count: int) -> float:
    """Seconds that steps take with so many segments at once, in one call; they are yet to run where they belong."""
    backend, rows = course.strand.work.sizes.backend, np.tile(np.arange(course.strand.work.call.batch), segments)
    firsts = course.strand.edges[course.done + np.arange(segments) * (course.left // segments)]
    state, seconds = joined(backend, [course.state] * segments), list[float]()
    while len(seconds) < 2 or sum(seconds) < 1e-3:  # the first takes memory, too, and others may disturb one
        began = time.perf_counter()
        course.strand.run(np.repeat(firsts, len(rows) // segments), count, rows, state)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
