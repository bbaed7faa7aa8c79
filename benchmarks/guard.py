"""What the guard of x and the parameters, and the copy of y, cost a training step of one layer on a CPU.

    python -m benchmarks.guard [T,B,D,H ...]

Steps with the guard and without take turns on one thread, timed in its processor time: what is looked for is smaller
than the noise of a machine with other work.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

from benchmarks import need_compiled
from gpu_lstm.backend import NumpyBackend
from gpu_lstm.bench.grid import STANDARD, Size
from gpu_lstm.bench.method import quartiles
from gpu_lstm.layers import LSTM
from gpu_lstm.native import compiled


def measure(size: Size, seconds: float) -> dict[bool, list[float]]:
    """Processor seconds of steps with the guard and without, for about so long."""
    num_steps, batch, input_size, hidden = size
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num_steps, batch, input_size), dtype=np.float32)
    dy = rng.standard_normal((num_steps, batch, hidden), dtype=np.float32)
    lstm = LSTM(input_size, hidden, backend=NumpyBackend())
    times: dict[bool, list[float]] = {True: [], False: []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[True]) < 6:
        for guard in (True, False, False, True):
            begun = time.thread_time()
            _, _, tape = lstm.forward(x, guard=guard)
            lstm.backward(tape, dy)
            times[guard].append(time.thread_time() - begun)
    return {guard: found[2:] for guard, found in times.items()}  # the first ones take memory


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=lambda text: tuple(map(int, text.split(","))), default=STANDARD)
    parser.add_argument("--seconds", type=float, default=10, help="for each size")
    options = parser.parse_args()
    need_compiled()
    os.environ[compiled.THREADS_VARIABLES[0]] = "1"
    for size in options.sizes:
        times = measure(size, options.seconds)
        on, off = quartiles(times[True]), quartiles(times[False])
        lower, median = (on[name] / off[name] - 1 for name in ("low", "median"))
        print(
            f"(T, B, D, H) = {size}: {off['median'] * 1e3:.2f} ms, with the guard {lower:+.1%} (lower quartiles), "
            f"{median:+.1%} (medians of {len(times[True])})",
            flush=True,
        )


if __name__ == "__main__":
    main()
