"""Our LSTM against ONNX Runtime (inference) and JAX (a training step) on the CPU, each where it is installed.

    pip install onnx onnxruntime jax
    python -m benchmarks.compare_peers --rounds 9 --out benchmarks/results/cpu_peers.json

By the method of benchmarks/README.md. `gpu-lstm bench` measures these and more; this script has the standard sizes.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks import pairs
from gpu_lstm.bench import record
from gpu_lstm.bench.grid import STANDARD
from gpu_lstm.bench.method import milliseconds
from gpu_lstm.bench.peers import choose
from gpu_lstm.errors import BackendError

SOME_SIZES = [*STANDARD[:3], (256, 1, 128, 128)]
PEERS = {"onnxruntime": "inference", "jax": "training"}
"""What each is measured in."""


def main() -> None:
    """Measure all peers at all sizes, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--all-sizes", action="store_true", help="the whole grid of compare_torch")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = record.provenance(record.command_line("python -m benchmarks.compare_peers"))
    found["points"] = []
    limit = pairs.Limit()
    print(f"{'peer':>13} {'':>9} {'T, B, D, H':>22} {'ours ms':>9} {'theirs ms':>9} {'ratio':>6}")
    for peer, kind in PEERS.items():
        try:
            choose([peer])
        except BackendError as error:
            print(f"{peer:>13} {kind:>9} {error}")
            continue
        for size in STANDARD if options.all_sizes else SOME_SIZES:
            point = pairs.measure(size, (kind,), options.tier, peer, options.rounds, limit)
            found["points"].append({"peer": peer, "kind": kind, **point})
            result = point.get("wrong", "")
            if not result:
                ours, theirs = milliseconds(point[kind])
                result = f"{ours:>9.2f} {theirs:>9.2f} {point[kind]['ratio']:>6.2f}"
            print(f"{peer:>13} {kind:>9} {size!s:>22} {result}", flush=True)
    ratios = {
        peer: [point[kind]["ratio"] for point in found["points"] if point["peer"] == peer and kind in point]
        for peer, kind in PEERS.items()
    }
    found["geometric_mean_ratio"] = {peer: statistics.geometric_mean(some) for peer, some in ratios.items() if some}
    record.write(found, options.out)


if __name__ == "__main__":
    main()
