"""``gpu-lstm bench --ranks``: what more ranks bring here, and what the bytes say of more devices than are here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_lstm.bench import ranks, record
from gpu_lstm.native import compiled

GPU_STEP, GPU_PARAMETERS = 2.6e-3, 4_700_000
"""Seconds of a step at T 1024, B 16, H 768 in 16 bits, as the kernels' model on paper has it, and the parameters."""


def run(counts: Sequence[int], cores: int | None, rounds: int, out: Path) -> int:
    """Measure, print a row a point, and write ``record.json`` into a folder."""
    cores = cores or compiled.threads()
    model = ranks.Job(1)
    found: dict[str, Any] = record.provenance(record.command_line("gpu-lstm"))
    found |= {"rounds": rounds, "points": []}
    each = max(1, cores // max(counts))
    print(f"{found['device']}; threads of a rank: {each}; compiled tier: {found['compiled']}")
    print(f"a language model: {model.hidden_size} units, {model.length} steps, {model.batch} sequences a step; in weak")
    print("scaling, so many on each rank\n", flush=True)
    print(f"{'':>6} {'ranks':>5} {'ms a step':>9} {'times as fast':>13} {'of ideal':>8} {'in communication':>16} "
          f"{'MB a rank sends':>15} {'MB of an all-reduce':>19}")  # fmt: skip
    for point in ranks.scaling(counts, cores, rounds, model):
        found["points"].append(point)
        reduced = 2 * 4 * point["parameters"] * (point["ranks"] - 1) / point["ranks"]
        print(
            f"{point['kind']:>6} {point['ranks']:>5} {point['seconds'] * 1e3:>9.1f} {point['speedup']:>13.2f} "
            f"{point['efficiency']:>8.0%} {point['communication']:>16.1%} {point['sent'] / 1e6:>15.2f} "
            f"{reduced / 1e6:>19.2f}",
            flush=True,
        )
        out.mkdir(parents=True, exist_ok=True)
        record.write(found, out / "record.json")
    print("\nnot measured but reckoned on paper: weak scaling of a model of")
    print(f"{GPU_PARAMETERS:,} parameters whose step takes {GPU_STEP * 1e3:.1f} ms on each device")
    for link in ranks.LINKS:
        paper = ranks.on_paper(link, GPU_PARAMETERS, GPU_STEP)
        print(
            f"{link.name} ({link.bandwidth / 1e9:.0f} GB/s, {link.latency * 1e6:.0f} us a message): each sends "
            f"{paper['sent'] / 1e6:.1f} MB in {paper['communication'] * 1e3:.2f} ms; {paper['efficiency']:.0%} of ideal"
        )
    print(f"numbers: {out / 'record.json'}")
    return 0
