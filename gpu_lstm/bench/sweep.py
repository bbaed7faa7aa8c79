"""All points of a grid: results checked first, then every side timed in turns, then phases and memory."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gpu_lstm.backend import Backend
from gpu_lstm.bench import limits, memory, threads, trace
from gpu_lstm.bench.grid import Size, line
from gpu_lstm.bench.machine import Machine
from gpu_lstm.bench.method import Patience, clock_for, interleave, on_gpu, quartiles
from gpu_lstm.bench.peers import Side, our_sides
from gpu_lstm.bench.problem import TOLERANCE, Problem, Step, parse_options
from gpu_lstm.optimizers import Adam
from gpu_lstm.recurrence import runnable_tiers
from gpu_lstm.training.memory import step_of_layer

Point = dict[str, Any]


@dataclass
class Sweep:
    """What to measure."""

    sizes: list[Size]
    kinds: list[str]
    dtype: str
    backends: list[Backend]
    peers: list[Side]
    rounds: int
    tiers: list[str] | None = None  # all that run, if not given
    memory: bool = True  # whether to measure the peak of training steps, in processes of their own
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        self.machines: dict[str, Machine] = {}

    def __len__(self) -> int:
        return len(self.sizes) * len(self.kinds) * len(self.backends)

    def run(self) -> Iterator[Point]:
        """Measure point after point; a point that fails says why and the rest goes on."""
        hungry = {line(self.sizes, "H")[0], line(self.sizes, "H")[-1]}
        for backend in self.backends:
            machine = self.machines[backend.name] = Machine(backend, self.dtype)
            for size, kind in itertools.product(self.sizes, self.kinds):
                point: Point = {"backend": backend.name, "kind": kind, "dtype": self.dtype, "size": list(size)}
                lacking = memory.obstacle(size, self.dtype, backend)
                if lacking:
                    yield {**point, "skipped": lacking}
                    continue
                try:
                    if kind == self.kinds[0] or not machine.product_by:
                        machine.measure(self.patience, rounds=1 if machine.product_by else 3)
                    measured = self.measure(Problem(size, kind, self.dtype, backend), machine)
                    if self.memory and kind == "training" and size in hungry:
                        measured |= peaks(measured, self.peers, size, self.dtype, backend)
                except (MemoryError, RuntimeError, OSError) as error:
                    yield {**point, "skipped": one_line(error)}
                    continue
                yield {**point, **measured}

    def measure(self, problem: Problem, machine: Machine) -> Point:
        """One point: check, time, rate, phases."""
        sides = our_sides(problem.backend, self.tiers) + [peer for peer in self.peers if peer.fits(problem)]
        results, steps = check(problem, sides)
        clocks = {side.name: clock_for(problem.backend, side.own_stream) for side in sides}
        times = interleave(steps, self.rounds, self.patience, clocks)
        ceilings = machine.ceilings()
        waits = waits_of(problem.backend)
        floors = limits.floor(problem.size, limits.ITEM[problem.dtype], problem.kind, ceilings, waits)
        floor = sum(floors.values())
        for name, seconds in times.items():
            middle = quartiles(seconds)
            gflops = limits.product_flops(problem.size, problem.kind) / middle["median"] / 1e9
            results[name] |= {
                **middle,
                "gflops": gflops,
                "share_of_product": gflops * 1e9 / ceilings.flops,
                "over_floor": middle["median"] / floor,
                "clock": clocks[name].kind,
                "seconds": seconds,
            }
        ours = [side.name for side in our_sides(problem.backend, self.tiers) if side.name in times]
        point: Point = {
            "ours": ours[0] if ours else None,
            "sides": results,
            "floor": floors,
            "product_flops": ceilings.flops,
        }
        if ours and problem.kind == "training":
            point["phases"] = phases(problem, ours[0], self.rounds)
        return point


def check(problem: Problem, sides: list[Side]) -> tuple[dict[str, Point], dict[str, Step]]:
    """Prepare every side and compare its results with the oracle; only those that are right are timed.

    Returns
    -------
    results : dict
        For each side ``error``, and ``remark`` where it is wrong or failed.
    steps : dict
        Of the sides that are right.
    """
    results: dict[str, Point] = {}
    steps: dict[str, Step] = {}
    for side in sides:
        try:
            asked = problem.with_options(parse_options(side.options))
            step = side.make(asked)
            error = asked.error(step())
        except Exception as failure:  # whatever another library raises, the others go on
            results[side.name] = {"error": None, "remark": f"failed: {one_line(failure)}"}
            continue
        results[side.name] = {"error": error if math.isfinite(error) else None}
        allowed = max(TOLERANCE[problem.dtype], side.tolerance)
        if error < allowed:
            steps[side.name] = step
        else:
            results[side.name]["remark"] = f"wrong: differs by {error:.1e}, {allowed:.0e} allowed"
            results[side.name]["wrong"] = True
    return results, steps


def phases(problem: Problem, tier: str, rounds: int) -> dict[str, float]:
    """Median seconds of each phase of a training step of ours, clipping and Adam included."""
    lstm = problem.lstm(tier)
    optimizer = Adam(lstm)
    x, dy = (problem.backend.asarray(array, problem.dtype) for array in (problem.x, problem.dy))
    taken: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        with trace.tracing({"lstm": lstm}, optimizer) as tracer, tracer.span("step"):
            _, _, tape = lstm.forward(x)
            _, _, gradients = lstm.backward(tape, dy)
            optimizer.update(gradients, max_norm=1.0)
        taken.append(trace.by_phase(tracer.spans, "step"))
    return {phase: statistics.median(one[phase] for one in taken[1:]) for phase in taken[0]}


def waits_of(backend: Backend) -> tuple[int, int]:
    """Barriers and launches of one time step in the floor: tiers that aren't one kernel launch at least two a step."""
    return (0, 2) if on_gpu(backend) and "sequence" not in runnable_tiers(backend) else (0, 0)


def peaks(point: Point, peers: list[Side], size: Size, dtype: str, backend: Backend) -> Point:
    """Peak memory of our fastest tier, with options too, and of torch.nn.LSTM; and what the model says of ours."""
    ours = point["ours"]
    asked: list[tuple[str, str, tuple[str, ...]]] = [(ours, ours, ()), ("torch", "torch", ())]
    asked += [(side.name, ours, side.options) for side in peers if side.options]
    measured = {
        name: memory.peak(side, size, dtype, backend.name, options)
        for name, side, options in asked
        if "median" in point["sides"].get(name, {})
    }
    compiled = not on_gpu(backend) and ours == "sequence"
    model = step_of_layer(size, dtype, threads.count() if compiled else 0)
    return {"peak_bytes": measured, "model_bytes": model}


def one_line(error: BaseException) -> str:
    """Kind and first line of an error."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}"[:200] if text else type(error).__name__
