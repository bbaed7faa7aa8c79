"""One training step and one inference pass of our tiers against torch.nn.LSTM on the CPU: time and memory.

    python -m benchmarks.compare_torch --rounds 9 --out benchmarks/results/cpu_training_step.json
    python -m benchmarks.compare_torch --off-grid --rounds 9 --out benchmarks/results/cpu_off_grid.json

At each size both sides get the same fresh random inputs and weights, 2 threads each; results are compared
first; then their steps alternate, with a large matrix product among them, and the medians' ratio is reported, with
the share of that product's rate that our matrix products reach. Before each timed step the machine must
have gone quiet (other processes, and the other side's threads, which spin for a while after their work), and
one untimed step warms the caches and wakes the threads. Peak memory is that of one training step in a process of
its own, above the process before the step. With --off-grid, sizes that fill no vector or tile are measured beside
neighbours that do: the loss is that of operations per second.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.grid import (
    OFF_GRID,
    SGEMM,
    SIZES,
    Size,
    disagreement,
    flops,
    inputs,
    our_inference,
    our_step,
    sgemm,
    torch_inference,
    torch_step,
)
from benchmarks.method import compared, interleave, milliseconds, provenance, write


def measure(size: Size, tier: str, rounds: int) -> dict[str, Any]:
    """Interleaved times of both sides at one size, in training and in inference."""
    x, dy = inputs(size)
    sides: dict[str, tuple[Any, Any]] = {
        "training": (our_step(size, x, dy, tier), torch_step(size, x, dy)),
        "inference": (our_inference(size, x, tier), torch_inference(size, x)),
    }
    differences = {kind: disagreement(ours(), theirs()) for kind, (ours, theirs) in sides.items()}
    steps: dict[str, Any] = {"sgemm": sgemm()}
    for kind, (ours, theirs) in sides.items():
        steps |= {f"ours {kind}": ours, f"torch {kind}": theirs}
    times = interleave(steps, rounds)
    peak = 2 * SGEMM**3 / statistics.median(times["sgemm"]) / 1e9
    point: dict[str, Any] = {"size": size, "tier": tier, "sgemm_gflops": peak}
    for kind in sides:
        comparison = compared(times, f"ours {kind}", f"torch {kind}")
        gflops = flops(size, kind == "training") / milliseconds(comparison)[0] / 1e6
        point[kind] = {
            **comparison,
            "gflops": gflops,
            "share_of_sgemm": gflops / peak,
            "largest_relative_difference": differences[kind],
        }
    return point


def measure_off_grid(odd: Size, even: Size, tier: str, rounds: int) -> dict[str, Any]:
    """Share of the operations per second that each side loses in a training step of an odd size."""
    steps: dict[str, Any] = {}
    differences = []
    for name, size in (("odd", odd), ("even", even)):
        x, dy = inputs(size)
        steps |= {f"ours {name}": our_step(size, x, dy, tier), f"torch {name}": torch_step(size, x, dy)}
        differences.append(disagreement(steps[f"ours {name}"](), steps[f"torch {name}"]()))
    times = interleave(steps, rounds)
    middle = {side: statistics.median(values) for side, values in times.items()}
    return {
        "size": odd,
        "neighbour": even,
        "tier": tier,
        "seconds": times,
        "loss": {
            side: 1 - flops(odd) / middle[f"{side} odd"] / (flops(even) / middle[f"{side} even"])
            for side in ("ours", "torch")
        },
        "ratio": middle["torch odd"] / middle["ours odd"],
        "largest_relative_difference": max(differences),
    }


def peak_memory(size: Size, side: str) -> int:
    """Bytes that one training step of one side needs at its peak, in a process of its own."""
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


def compare_all(tier: str, rounds: int) -> dict[str, Any]:
    """All sizes, with a table."""
    points = []
    print(f"{'T, B, D, H':>22} {'':>9} {'ours ms':>8} {'torch ms':>8} {'ratio':>6} {'GF/s':>5} {'of sgemm':>8} peak MB")
    for size in SIZES:
        point = measure(size, tier, rounds)
        point["peak_bytes"] = {"ours": peak_memory(size, tier), "torch": peak_memory(size, "torch")}
        points.append(point)
        memory = " / ".join(f"{value / 1e6:.0f}" for value in point["peak_bytes"].values())
        for kind, end in (("training", memory), ("inference", f"(sgemm {point['sgemm_gflops']:.0f} GF/s)")):
            result = point[kind]
            ours, theirs = milliseconds(result)
            print(
                f"{size!s:>22} {kind:>9} {ours:>8.2f} {theirs:>8.2f} {result['ratio']:>6.2f} {result['gflops']:>5.0f} "
                f"{result['share_of_sgemm']:>8.0%} {end}",
                flush=True,
            )
    means = {kind: statistics.geometric_mean(p[kind]["ratio"] for p in points) for kind in ("training", "inference")}
    print("geometric mean of the ratios: " + ", ".join(f"{kind} {mean:.2f}" for kind, mean in means.items()))
    return {"points": points, "geometric_mean_ratio": means}


def compare_off_grid(tier: str, rounds: int) -> dict[str, Any]:
    """All odd sizes, with a table."""
    points = []
    print(f"{'T, B, D, H':>20} {'neighbour':>20} {'loss ours':>9} {'torch':>6} {'ratio at odd size':>18}")
    for odd, even in OFF_GRID:
        point = measure_off_grid(odd, even, tier, rounds)
        points.append(point)
        loss = point["loss"]
        print(
            f"{odd!s:>20} {even!s:>20} {loss['ours']:>9.0%} {loss['torch']:>6.0%} {point['ratio']:>18.2f}", flush=True
        )
    return {"points": points}


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--off-grid", action="store_true", help="odd sizes beside even ones, instead of the grid")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        side, *numbers = options.memory_of
        steps, batch, input_size, hidden_size = map(int, numbers)
        print(memory_of(side, (steps, batch, input_size, hidden_size)))
        return
    record = provenance("torch")
    record |= (compare_off_grid if options.off_grid else compare_all)(options.tier, options.rounds)
    write(record, options.out)


if __name__ == "__main__":
    main()
