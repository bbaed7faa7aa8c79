"""Whether ranks on CPUs gain by sending gradients while the backward pass runs, as in buckets, layer by layer.

    mpiexec -n 2 python -m mpi4py -m benchmarks.buckets --out benchmarks/results/cpu_buckets.json

A training step of the shipped language model's size, one thread a rank: without sending anything; with what ranks send
sent after it; and with all of it begun before the step and waited for after it, which is more than buckets could hide.
The sides take turns, each step begins together, and the slower rank's time counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

os.environ["GPU_LSTM_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from gpu_lstm.bench import record
from gpu_lstm.bench.ranks import EMBEDDING, VOCABULARY, WARM, Job
from gpu_lstm.models import LanguageModel


def main() -> None:
    """Measure the three sides in turn; rank 0 tells."""
    from mpi4py import MPI

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="of each side")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ranks = MPI.COMM_WORLD
    job = Job(ranks.size, steps=options.steps)
    model = LanguageModel(VOCABULARY, EMBEDDING, job.hidden_size, backend="numpy")
    rng = np.random.default_rng(ranks.rank)
    tokens = rng.integers(0, VOCABULARY, (job.length + 1, job.batch // ranks.size))
    sums = np.zeros((ranks.size, -(-model.count() // ranks.size)), np.float32)
    arrived, every = np.empty_like(sums), np.empty_like(sums)

    def after() -> None:
        model.loss(tokens)
        ranks.Alltoall(sums, arrived)
        ranks.Allgather(sums[0], every)

    def during() -> None:
        begun = [ranks.Ialltoall(sums, arrived), ranks.Iallgather(sums[0], every)]
        model.loss(tokens)
        MPI.Request.Waitall(begun)

    sides: dict[str, Callable[[], object]] = {
        "nothing is sent": lambda: model.loss(tokens), "sent after it": after, "sent while it runs": during,
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(WARM + options.steps):
        for name, step in sides.items():
            ranks.Barrier()
            begun = time.perf_counter()
            step()
            seconds[name].append(ranks.allreduce(time.perf_counter() - begun, MPI.MAX))
    if ranks.rank == 0:
        medians = {name: statistics.median(some[WARM:]) for name, some in seconds.items()}
        for name, median in medians.items():
            print(f"{name:>18}: {median * 1e3:.2f} ms a step")
        command = record.command_line(f"mpiexec -n {ranks.size} python -m mpi4py -m benchmarks.buckets")
        sent = 2 * sums.nbytes * (ranks.size - 1) // ranks.size
        record.write(record.provenance(command) | {"job": asdict(job), "sent": sent, "seconds": medians}, options.out)


if __name__ == "__main__":
    main()
