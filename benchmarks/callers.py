"""Several threads of a process, each with a model and one core: how much more than one of them they do together.

    python -m benchmarks.callers [--threads 2] [--rounds 5]

Where Python has no GIL, N of them on N free cores are to do at least 0.9 N times what one does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

from benchmarks import need_compiled
from gpu_lstm import LSTM, Adam
from gpu_lstm.native import compiled


def training(lstm: LSTM, x: np.ndarray) -> Callable[[], object]:
    """A step of training, with y as its own gradient."""
    optimizer = Adam(lstm)

    def step() -> object:
        y, _, tape = lstm.forward(x)
        return optimizer.update(lstm.backward(tape, y)[2], max_norm=1.0)

    return step


def inference(lstm: LSTM, x: np.ndarray) -> Callable[[], object]:
    """A batch of inference."""
    return lambda: lstm.forward(x, keep=False)


def rate(work: Callable[[LSTM, np.ndarray], Callable[[], object]], callers: int, seconds: float) -> float:
    """Calls a second of all threads together, each with a layer of its own, (T, B, D, H) = (64, 32, 128, 128)."""
    x = np.random.default_rng(0).standard_normal((64, 32, 128), dtype=np.float32)
    done, ready = [0] * callers, threading.Barrier(callers)

    def call(caller: int) -> None:
        one = work(LSTM(128, 128, backend="numpy"), x)
        one()
        ready.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            one()
            done[caller] += 1

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / seconds


def main() -> None:
    """Measure, the two sides in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each side of a round")
    options = parser.parse_args()
    need_compiled()
    os.environ[compiled.THREADS_VARIABLES[0]] = "1"
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, {'with' if locked else 'without'} the GIL, NumPy {np.__version__}")
    for work in (training, inference):
        ratios = []
        for _ in range(options.rounds):
            alone = rate(work, 1, options.seconds)
            ratios.append(rate(work, options.threads, options.seconds) / alone)
        print(
            f"{work.__name__}: {options.threads} threads do {statistics.median(ratios):.2f} times what one does, "
            f"{alone:.0f} calls a second (median of {options.rounds}; {min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
