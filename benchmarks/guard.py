"""What the guard of x and the parameters, and the copy of y, cost a training step of one layer on a CPU.

    OMP_NUM_THREADS=1 python -m benchmarks.guard

Steps with the guard and without take turns, timed in processor time of their thread: what is looked for is smaller than
the noise of a machine with other work.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from gpu_lstm.backend import NumpyBackend
from gpu_lstm.bench.grid import STANDARD
from gpu_lstm.layers import LSTM


def measure(size: tuple[int, int, int, int], seconds: float) -> dict[bool, list[float]]:
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
    parser.add_argument("--seconds", type=float, default=10, help="for each size")
    options = parser.parse_args()
    for size in STANDARD:
        times = measure(size, options.seconds)
        on, off = times[True], times[False]
        fastest, median = min(on) / min(off), statistics.median(on) / statistics.median(off)
        print(
            f"(T, B, D, H) = {size}: {min(off) * 1e3:.2f} ms, with the guard {fastest - 1:+.1%} (fastest), "
            f"{median - 1:+.1%} (medians of {len(on)})",
            flush=True,
        )


if __name__ == "__main__":
    main()
