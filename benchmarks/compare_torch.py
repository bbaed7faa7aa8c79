"""One training step and one inference pass of our tiers against torch.nn.LSTM on the CPU: time and memory.

    python -m benchmarks.compare_torch --rounds 9 --out benchmarks/results/cpu_training_step.json
    python -m benchmarks.compare_torch --off-grid --rounds 9 --out benchmarks/results/cpu_off_grid.json

The standard sizes, by the method of benchmarks/README.md, with a large matrix product among the sides: the share of its
rate that our matrix products reach is reported. With --off-grid, sizes that fill no vector or tile are measured beside
neighbours that do: the loss is that of operations per second.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks import pairs
from gpu_lstm.backend import NumpyBackend
from gpu_lstm.bench import limits, memory, record
from gpu_lstm.bench.grid import OFF_GRID, STANDARD, Size
from gpu_lstm.bench.method import interleave, milliseconds
from gpu_lstm.bench.problem import KINDS
from gpu_lstm.recurrence import make_plan


def compare_all(tier: str, rounds: int, sizes: list[Size]) -> dict[str, Any]:
    """All sizes, with a table."""
    points = []
    limit = pairs.Limit()
    print(f"{'T, B, D, H':>22} {'':>9} {'ours ms':>8} {'torch ms':>8} {'ratio':>6} {'GF/s':>5} {'of sgemm':>8} peak MB")
    for size in sizes:
        point = pairs.measure(size, KINDS, tier, "torch", rounds, limit)
        if "wrong" in point:
            raise SystemExit(f"{size}: {point['wrong']}")
        named = make_plan(NumpyBackend(), tier).tier
        point["peak_bytes"] = {"ours": memory.peak(named, size), "torch": memory.peak("torch", size)}
        points.append(point)
        peaks = " / ".join("?" if value is None else f"{value / 1e6:.0f}" for value in point["peak_bytes"].values())
        for kind, end in (("training", peaks), ("inference", f"(sgemm {point['sgemm_gflops']:.0f} GF/s)")):
            result = point[kind]
            ours, theirs = milliseconds(result)
            print(
                f"{size!s:>22} {kind:>9} {ours:>8.2f} {theirs:>8.2f} {result['ratio']:>6.2f} {result['gflops']:>5.0f} "
                f"{result['share_of_sgemm']:>8.0%} {end}",
                flush=True,
            )
    means = {kind: statistics.geometric_mean(p[kind]["ratio"] for p in points) for kind in KINDS}
    print("geometric mean of the ratios: " + ", ".join(f"{kind} {mean:.2f}" for kind, mean in means.items()))
    return {"points": points, "geometric_mean_ratio": means}


def measure_off_grid(odd: Size, even: Size, tier: str, rounds: int) -> dict[str, Any]:
    """Share of the operations per second that each side loses in a training step of an odd size."""
    steps: dict[str, Any] = {}
    errors = {}
    for name, size in (("odd", odd), ("even", even)):
        made, errors[name], wrong = pairs.checked(size, "training", tier, "torch")
        if wrong:
            raise SystemExit(f"{size}: {wrong}")
        steps |= {f"{side} {name}": step for side, step in made.items()}
    times = interleave(steps, rounds)
    middle = {side: statistics.median(values) for side, values in times.items()}
    work = {name: limits.product_flops(size) for name, size in (("odd", odd), ("even", even))}
    rates = {f"{side} {name}": work[name] / middle[f"{side} {name}"] for side in ("ours", "theirs") for name in work}
    return {
        "size": odd,
        "neighbour": even,
        "tier": tier,
        "seconds": times,
        "loss": {side: 1 - rates[f"{side} odd"] / rates[f"{side} even"] for side in ("ours", "theirs")},
        "ratio": middle["theirs odd"] / middle["ours odd"],
        "errors": errors,
    }


def compare_off_grid(tier: str, rounds: int) -> dict[str, Any]:
    """All odd sizes, with a table."""
    points = []
    print(f"{'T, B, D, H':>20} {'neighbour':>20} {'loss ours':>9} {'torch':>6} {'ratio at odd size':>18}")
    for odd, even in OFF_GRID:
        point = measure_off_grid(odd, even, tier, rounds)
        points.append(point)
        ours, theirs = point["loss"].values()
        print(f"{odd!s:>20} {even!s:>20} {ours:>9.0%} {theirs:>6.0%} {point['ratio']:>18.2f}", flush=True)
    return {"points": points, "largest_loss": max(point["loss"]["ours"] for point in points)}


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--off-grid", action="store_true", help="odd sizes beside even ones, instead of the grid")
    parser.add_argument("--size", type=int, nargs=4, metavar=("T", "B", "D", "H"), help="this size only")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = record.provenance(record.command_line("python -m benchmarks.compare_torch"))
    if options.off_grid:
        found |= compare_off_grid(options.tier, options.rounds)
    else:
        found |= compare_all(options.tier, options.rounds, [tuple(options.size)] if options.size else STANDARD)
    record.write(found, options.out)


if __name__ == "__main__":
    main()
