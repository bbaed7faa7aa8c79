"""How all comparisons measure: sides alternate on a quiet machine, medians are compared, records say where and when."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import THREADS

Times = dict[str, list[float]]


def interleave(steps: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Seconds of each side's step, `rounds` of them; an untimed one before each warms the caches and the threads."""
    times: Times = {side: [] for side in steps}
    for _ in range(rounds):
        for side, step in steps.items():
            wait_until_quiet()
            step()
            begun = time.perf_counter()
            step()
            times[side].append(time.perf_counter() - begun)
    return times


def wait_until_quiet(at_most: float = 10.0) -> None:
    """Sleep until nothing keeps the processors busy, or for `at_most` seconds."""

    def busy() -> int:
        ticks = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return sum(ticks[:3]) + sum(ticks[5:8])

    end = time.perf_counter() + at_most
    while time.perf_counter() < end:
        before = busy()
        time.sleep(0.06)
        if busy() - before <= 1:
            return
        time.sleep(0.1)


def compared(times: Times, ours: str, theirs: str) -> dict[str, Any]:
    """Two sides of `times`, as a record: all seconds, and how many times faster ours is, medians against each other."""
    return {
        "seconds": {"ours": times[ours], "theirs": times[theirs]},
        "ratio": statistics.median(times[theirs]) / statistics.median(times[ours]),
    }


def milliseconds(comparison: Mapping[str, Any]) -> tuple[float, float]:
    """Medians of ours and theirs in a record that `compared` made."""
    ours, theirs = (statistics.median(values) * 1e3 for values in comparison["seconds"].values())
    return ours, theirs


def installed(package: str) -> str | None:
    """Version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def provenance(*packages: str) -> dict[str, Any]:
    """What is measured, where and when; call it first, since it notes the load."""
    from gpu_lstm.backend import NumpyBackend, compiled

    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": NumpyBackend().describe()["device"],
        "compiled": compiled.missing() or compiled.describe(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{package: installed(package) for package in ("numpy", *packages)},
        "revision": revision.stdout.strip(),
        "command": " ".join(["python -m benchmarks." + Path(sys.argv[0]).stem, *sys.argv[1:]]),
    }


def write(record: Mapping[str, Any], path: Path | None) -> None:
    """Write a record as JSON where a path is given."""
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
