"""How everything is timed: sides alternate on a quiet machine, medians are compared, the spread is kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from gpu_lstm.backend import Backend

Times = dict[str, list[float]]
"""Seconds of each side, in the order they were taken."""


WARM = 0.02
"""Seconds of untimed steps after a wait, one at least: after 50 ms of sleep, steps of 0.4 ms took 0.8."""

SHORT = 0.02
"""Seconds of steps that are timed at least: of steps of 0.2 ms, single ones differ by a half."""


class Clock(Protocol):
    """Times one call."""

    kind: str

    def seconds(self, step: Callable[[], object]) -> float:
        """How long `step` takes, its results complete."""


class WallClock:
    """Wall-clock time; the device, if there is one, has finished before and after."""

    kind = "wall"

    def __init__(self, synchronize: Callable[[], object] = lambda: None):
        self._synchronize = synchronize

    def seconds(self, step: Callable[[], object]) -> float:  # noqa: D102
        self._synchronize()
        taken, end = list[float](), time.perf_counter() + SHORT
        while not taken or time.perf_counter() < end:
            begun = time.perf_counter()
            step()
            self._synchronize()
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken)


class DeviceClock:
    """Time between two events on the current CUDA stream, the second-level cache overwritten before.

    It holds for work on CuPy's current stream and on PyTorch's, which are the same (the default one) unless someone
    changed them; other libraries have streams of their own and need `WallClock`.
    """

    kind = "device events"

    def __init__(self, cupy: Any):
        self._cupy = cupy
        size = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["l2CacheSize"]
        self._flush = cupy.empty(max(2 * int(size), 1), dtype=cupy.uint8)

    def seconds(self, step: Callable[[], object]) -> float:  # noqa: D102
        cuda = self._cupy.cuda
        begin, end = cuda.Event(), cuda.Event()
        self._flush.fill(0)
        begin.record()
        step()
        end.record()
        end.synchronize()
        return float(cuda.get_elapsed_time(begin, end)) / 1e3


def on_gpu(backend: Backend) -> bool:
    """Whether a backend's arrays lie on an NVIDIA GPU."""
    return "cuda" in backend.describe()


def clock_for(backend: Backend, own_stream: bool = False) -> WallClock | DeviceClock:
    """The clock of a side that runs on `backend`'s device; `own_stream` where it doesn't use the current stream."""
    if not on_gpu(backend) or own_stream:
        return WallClock(backend.read)
    return DeviceClock(backend.xp)


class Patience:
    """Waits until nothing else keeps the processors busy, but not for ever.

    Parameters
    ----------
    at_most : float
        Seconds of one wait; 0: it never waits.
    total : float
        Seconds of all waits; when they are spent, each wait is a short look only.

    Attributes
    ----------
    waits, noisy : int
        How many waits there were, and how many ended with the machine still busy.
    """

    def __init__(self, at_most: float = 10.0, total: float = float("inf")):
        self.at_most, self.left = at_most, total
        self.waits = self.noisy = 0

    def wait(self) -> None:
        """Sleep until the machine is quiet, or the time is up."""
        if not self.at_most:
            return
        self.waits += 1
        begun = time.perf_counter()
        end = begun + min(self.at_most, max(self.left, 0.0))
        while True:
            before = busy_ticks()
            if before is None:
                time.sleep(0.01)
                return
            time.sleep(0.03)
            quiet = (busy_ticks() or 0) - before <= 1
            if quiet or time.perf_counter() >= end:
                break
            time.sleep(0.05)
        self.noisy += not quiet
        self.left -= time.perf_counter() - begun

    def describe(self) -> dict[str, int]:
        """For the record."""
        return {"waits": self.waits, "noisy": self.noisy}


def busy_ticks() -> int | None:
    """Processor time that all processes have used, in the system's ticks; None where the system doesn't tell."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None
    ticks = [int(number) for number in line.split()[1:]]
    return sum(ticks[:3]) + sum(ticks[5:8])


def interleave(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    patience: Patience | None = None,
    clocks: Mapping[str, Clock] | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> Times:
    """Seconds of each side's step, `rounds` of them, or fewer, but one, where there are `enough` before.

    The sides take turns. Before each timed step the machine has gone quiet (other processes, and the other sides'
    threads, which spin for a while after their work), and untimed steps have warmed what the wait has cooled: caches,
    threads and the processor's clock.
    """
    patience, wall = patience or Patience(), WallClock()
    times: Times = {side: [] for side in steps}
    for number in range(rounds):
        if number and enough():
            break
        for side, step in steps.items():
            patience.wait()
            begun = time.perf_counter()
            step()
            while patience.at_most and time.perf_counter() - begun < WARM:
                step()
            times[side].append((clocks or {}).get(side, wall).seconds(step))
    return times


def quartiles(seconds: list[float]) -> dict[str, float]:
    """Median, and the quartiles around it."""
    if len(seconds) < 2:
        return {"median": seconds[0], "low": seconds[0], "high": seconds[0]}
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """How many times as long theirs takes: of the medians, and between the facing and the averted quartiles."""
    a, b = quartiles(ours), quartiles(theirs)
    return {"ratio": b["median"] / a["median"], "low": b["low"] / a["high"], "high": b["high"] / a["low"]}
