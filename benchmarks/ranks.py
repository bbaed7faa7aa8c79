"""Ranks against PyTorch's DistributedDataParallel over gloo, and against more threads of one process.

    python -m benchmarks.ranks --rounds 3 --out benchmarks/results/cpu_ranks.json

The shipped language model, the same sizes on all sides, random text. Each side is a job of processes of its own that
does some untimed steps and then times each; sides take turns, medians are compared. A rank has one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import need_compiled
from gpu_lstm.bench import ranks, record, threads
from gpu_lstm.bench.ranks import EMBEDDING, VOCABULARY, WARM, Job

SIDES = {
    "2 ranks": Job(2, shares=2),
    "2 ranks, 8 shares": Job(2, shares=8),
    "2 ranks, fast": Job(2, shares=2, ordered=False),
    "1 rank of 2 threads": Job(1, 2),
    "1 rank of 1 thread": Job(1, 1),
}
"""Ours."""
DDP = "DistributedDataParallel, 2 ranks"


def torch_rank(job: Job, rank: int) -> list[float]:
    """Seconds of each step as one of PyTorch's ranks, which does its part of every batch."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=job.ranks)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(VOCABULARY, EMBEDDING)
            self.lstm = torch.nn.LSTM(EMBEDDING, job.hidden_size)
            self.head = torch.nn.Linear(job.hidden_size, VOCABULARY)
            self.lstm.bias_hh_l0.requires_grad_(False)  # ours has one bias

        def forward(self, tokens, state):
            h, state = self.lstm(self.embedding(tokens), state)
            return self.head(h), state

    model = DistributedDataParallel(Model())
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, 1e-3, fused=True)
    rows, steps = job.batch // job.ranks, job.steps + WARM
    tokens = torch.from_numpy(np.random.default_rng(rank).integers(0, VOCABULARY, (steps, job.length + 1, rows)))
    state, seconds = None, []
    for chunk in tokens:
        begun = time.perf_counter()
        optimizer.zero_grad()
        logits, last = model(chunk[:-1], state)
        state = tuple(part.detach() for part in last)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), chunk[1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        float(loss.detach())
        seconds.append(time.perf_counter() - begun)
    torch.distributed.destroy_process_group()
    return seconds[WARM:]


def torch_run(job: Job) -> list[float]:
    """Have PyTorch's ranks do a job; rank 0's seconds of each step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads.set_variables(job.threads, environment)
    command = [sys.executable, "-m", "benchmarks.ranks", "--job", json.dumps(asdict(job)), "--rank"]
    processes = [
        subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(job.ranks)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("PyTorch's ranks failed")
    found: list[float] = json.loads(said[0].strip().splitlines()[-1])
    return found


def main() -> None:
    """Measure all sides in turn and compare their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="that are timed, of each side in each round")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(torch_rank(Job(**json.loads(options.job)), options.rank)))
        return
    need_compiled()
    found: dict[str, Any] = record.provenance(record.command_line("python -m benchmarks.ranks"))
    found["threads"] = "1 of each rank, or as said"
    seconds: dict[str, list[float]] = {name: [] for name in (*SIDES, DDP)}
    for _ in range(options.rounds):
        for name in seconds:
            job = replace(SIDES.get(name, Job(2)), steps=options.steps)
            seconds[name] += torch_run(job) if name == DDP else ranks.run(job)["seconds"]
            print(f"{name:>34}: {statistics.median(seconds[name]) * 1e3:.1f} ms a step", flush=True)
    medians = {name: statistics.median(some) for name, some in seconds.items() if some}
    found |= {"rounds": options.rounds, "job": asdict(Job(2, steps=options.steps)), "seconds": seconds,
              "steps_a_second": {name: 1 / median for name, median in medians.items()},
              "over_ddp": medians[DDP] / medians["2 ranks"],
              "over_threads": medians["1 rank of 2 threads"] / medians["2 ranks"]}  # fmt: skip
    for name, median in medians.items():
        print(f"{name:>34}: {1 / median:.2f} steps a second")
    print(f"2 ranks over DistributedDataParallel: {found['over_ddp']:.2f} times as fast")
    print(f"2 ranks of 1 thread over 1 rank of 2 threads: {found['over_threads']:.2f} times as fast")
    record.write(found, options.out)


if __name__ == "__main__":
    main()
