"""What recomputation over time saves and costs for a sequence of 100,000 steps.

    python -m benchmarks.recompute --out benchmarks/results/recompute.json

Peak memory is that of forward and backward in a process of its own (its highest resident memory above that before
the step), without x, dy, y and dx, which are as large in both cases. Times of both alternate in one process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.compare_torch import resident
from benchmarks.method import compared, interleave, provenance, write
from gpu_lstm.backend import NumpyBackend
from gpu_lstm.layers import LSTM

SIZE = (100_000, 1, 64, 256)


def step(recompute: bool, size=SIZE):
    """A function that runs forward and backward."""
    num_steps, batch, input_size, hidden = size
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num_steps, batch, input_size), dtype=np.float32)
    dy = rng.standard_normal((num_steps, batch, hidden), dtype=np.float32)
    lstm = LSTM(input_size, hidden, backend=NumpyBackend(), recompute=recompute)

    def run():
        y, _, tape = lstm.forward(x)
        return y, lstm.backward(tape, dy)

    return run


def growth(recompute: bool) -> int:
    """Bytes by which this process grows during a step, without y and dx."""
    num_steps, batch, input_size, hidden = SIZE
    run = step(recompute)
    step(recompute, (2, 1, input_size, hidden))()  # libraries load and start their threads here
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    run()
    return resident("VmHWM") - before - 4 * num_steps * batch * (input_size + hidden)


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--growth", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.growth is not None:
        print(growth(bool(options.growth)))
        return
    record = provenance()
    command = [sys.executable, "-m", "benchmarks.recompute", "--growth"]
    peaks = [int(subprocess.run([*command, str(n)], check=True, capture_output=True, text=True).stdout) for n in (0, 1)]
    times = interleave({"plain": step(False), "recompute": step(True)}, options.rounds)
    record |= {
        "size": SIZE,
        "peak_bytes": {"plain": peaks[0], "recompute": peaks[1]},
        **compared(times, "plain", "recompute"),
    }
    print(
        f"(T, B, D, H) = {SIZE}: peak {peaks[0] / 1e6:.1f} MB plain, {peaks[1] / 1e6:.1f} MB with recomputation, "
        f"{peaks[0] / peaks[1]:.1f} times smaller; time {record['ratio']:.2f} times"
    )
    write(record, options.out)


if __name__ == "__main__":
    main()
