"""One training step of our tiers against torch.nn.LSTM on the CPU: time, interleaved in one process, and memory.

    python -m benchmarks.compare_torch --rounds 9 --out benchmarks/results/cpu_training_step.json

At each size both sides get the same fresh random inputs and weights, 2 threads each; results are compared
first; then their steps alternate, and the medians' ratio is reported. Before each timed step the machine must
have gone quiet (other processes, and the other side's threads, which spin for a while after their work), and
one untimed step warms the caches and wakes the threads. Peak memory is that of one step in a process of its
own, above the process before the step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.grid import SIZES, THREADS, disagreement, flops, inputs, our_step, torch_step

Size = tuple[int, int, int, int]


def measure(size: Size, tier: str, rounds: int) -> dict[str, Any]:
    """Interleaved times of both sides at one size."""
    x, dy = inputs(size)
    steps = {"ours": our_step(size, x, dy, tier), "torch": torch_step(size, x, dy)}
    difference = disagreement(steps["ours"](), steps["torch"]())
    times: dict[str, list[float]] = {side: [] for side in steps}
    for _ in range(rounds):
        for side, step in steps.items():
            wait_until_quiet()
            step()
            begun = time.perf_counter()
            step()
            times[side].append(time.perf_counter() - begun)
    middle = {side: statistics.median(values) for side, values in times.items()}
    return {
        "size": size,
        "tier": tier,
        "seconds": times,
        "ratio": middle["torch"] / middle["ours"],
        "gflops": flops(size) / middle["ours"] / 1e9,
        "largest_relative_difference": difference,
    }


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


def peak_memory(size: Size, side: str) -> int:
    """Bytes that one step of one side needs at its peak, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.compare_torch", "--memory-of", side, *map(str, size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory_of(side: str, size: Size) -> int:
    """Growth of this process's peak resident memory during a step, from the second step on."""
    x, dy = inputs(size)
    small = (2, 1, size[2], size[3])
    make = torch_step if side == "torch" else partial(our_step, tier=side)
    step = make(size, x, dy)
    make(small, *inputs(small))()  # libraries load and start their threads here
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    step()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """A line of this process's memory status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def provenance() -> dict[str, Any]:
    """What was measured, where and when."""
    import numpy as np
    import torch

    from gpu_lstm.backend import NumpyBackend

    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": NumpyBackend().describe()["device"],
        "cores": os.cpu_count(),
        "threads": THREADS,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "revision": revision.stdout.strip(),
        "command": "python -m benchmarks.compare_torch " + " ".join(sys.argv[1:]),
    }


def main() -> None:
    """Measure all sizes, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        side, *numbers = options.memory_of
        steps, batch, input_size, hidden_size = map(int, numbers)
        print(memory_of(side, (steps, batch, input_size, hidden_size)))
        return
    record: dict[str, Any] = {**provenance(), "points": []}
    print(f"{'T, B, D, H':>22} {'ours ms':>9} {'torch ms':>9} {'ratio':>6} {'GF/s':>6} {'memory ours/torch MB':>22}")
    for size in SIZES:
        point = measure(size, options.tier, options.rounds)
        point["peak_bytes"] = {
            "ours": peak_memory(size, options.tier),
            "torch": peak_memory(size, "torch"),
        }
        record["points"].append(point)
        ours, theirs = (statistics.median(point["seconds"][side]) * 1e3 for side in ("ours", "torch"))
        memory = " / ".join(f"{value / 1e6:.0f}" for value in point["peak_bytes"].values())
        print(
            f"{size!s:>22} {ours:>9.1f} {theirs:>9.1f} {point['ratio']:>6.2f} {point['gflops']:>6.0f} {memory:>22}",
            flush=True,
        )
    record["geometric_mean_ratio"] = statistics.geometric_mean(p["ratio"] for p in record["points"])
    print(f"geometric mean of the ratios: {record['geometric_mean_ratio']:.2f}")
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(THREADS))
    main()
