"""What more ranks bring: steps a second, the share of time in which ranks wait for numbers, and the bytes they send.

Each measurement is a job of its own, started by mpiexec; jobs of different numbers of ranks take turns. What more
devices than are here would do is reckoned from the bytes, and marked as such.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.bench import threads
from gpu_lstm.errors import GpuLstmError
from gpu_lstm.models import LanguageModel
from gpu_lstm.parallel import MPI, Alone, Communicator, mpiexec
from gpu_lstm.parallel.communicator import Value
from gpu_lstm.training import Event, Settings, Training
from gpu_lstm.training.tasks import TextTask

VOCABULARY, EMBEDDING = 84, 64
WARM = 5
"""Steps that are not counted, of each job."""


@dataclass(frozen=True)
class Job:
    """Training steps of a language model on some ranks.

    Attributes
    ----------
    ranks : int
    threads : int
        Of each rank.
    batch : int
        Sequences of a step, on all ranks together.
    shares : int
        Into which a batch is cut; 0: as `Settings` has it.
    ordered : bool
        Whether gradients are summed to the same bits on any number of ranks.
    steps : int
        That are timed.
    """

    ranks: int
    threads: int = 1
    batch: int = 64
    length: int = 64
    hidden_size: int = 256
    shares: int = 0
    ordered: bool = True
    steps: int = 20


class Timed(Communicator):
    """Another communicator, whose every call is timed, and whose bytes are counted: what one rank sends."""

    def __init__(self, inner: Communicator):
        self.inner, self.seconds, self.sent = inner, 0.0, 0
        self.rank, self.size, self.ordered = inner.rank, inner.size, inner.ordered
        self.local_rank, self.local_size = inner.local_rank, inner.local_size

    def _timed(self, call: Callable[..., Any], argument: Any, sent: int = 0) -> Any:
        begun = time.perf_counter()
        try:
            return call(argument)
        finally:
            self.seconds += time.perf_counter() - begun
            self.sent += sent

    def exchange(self, rows: Array) -> Array:  # noqa: D102
        return self._timed(self.inner.exchange, rows, rows.nbytes * (self.size - 1) // self.size)

    def join(self, row: Array) -> Array:  # noqa: D102
        return self._timed(self.inner.join, row, row.nbytes * (self.size - 1))

    def sum(self, array: Array) -> None:  # noqa: D102
        self._timed(self.inner.sum, array, 2 * array.nbytes * (self.size - 1) // self.size)  # of a ring

    def any(self, flag: bool) -> bool:  # noqa: D102
        return bool(self._timed(self.inner.any, flag))

    def gather(self, value: Value) -> list[Value]:  # noqa: D102
        found: list[Value] = self._timed(self.inner.gather, value)
        return found

    def broadcast(self, value: Value) -> Value:  # noqa: D102
        found: Value = self._timed(self.inner.broadcast, value)
        return found

    def abort(self, line: str, status: int = 1) -> NoReturn:  # noqa: D102
        self.inner.abort(line, status)


def measure(job: Job) -> dict[str, Any]:
    """Do a job as one of its ranks; seconds of each step, those of them spent in communication, bytes that it sent."""
    communicator = Timed(Alone() if job.ranks == 1 else MPI(ordered=job.ordered))
    model = LanguageModel(VOCABULARY, EMBEDDING, job.hidden_size, backend="numpy")
    steps = job.steps + WARM
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 5 * job.batch * (job.length * steps + 1) // 4)
    task = TextTask(model, tokens, job.batch, job.length, validation=0.1, seed=0)
    settings = Settings(epochs=1, learning_rate=1e-3, validations=0, shares=job.shares)
    seconds: list[float] = []
    waited: list[float] = []
    last = [time.perf_counter(), 0.0, 0]

    def report(event: Event) -> None:
        now = time.perf_counter(), communicator.seconds, communicator.sent
        seconds.append(now[0] - last[0])
        waited.append(now[1] - last[1])
        last[:] = now[0], now[1], now[2]

    Training(task, settings, parallel=communicator).go(report, lambda: len(seconds) >= steps)
    return {
        "seconds": seconds[WARM:], "communication": waited[WARM:], "sent": communicator.sent / len(seconds),
        "parameters": model.count(),
    }  # fmt: skip


def run(job: Job) -> dict[str, Any]:
    """Have a job done by processes of their own; what rank 0 measured.

    Raises
    ------
    InputError
        mpi4py or mpiexec is missing.
    GpuLstmError
        The job failed; the message is the last line that it said.
    """
    start = [] if job.ranks == 1 else [mpiexec(job.ranks), "-n", str(job.ranks)]
    environment = dict(os.environ)
    threads.set_variables(job.threads, environment)
    command = [*start, sys.executable, "-m", "gpu_lstm.bench.ranks", json.dumps(asdict(job))]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise GpuLstmError(f"{job.ranks} ranks failed: {last}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def scaling(counts: Sequence[int], cores: int, rounds: int, model: Job) -> Iterator[dict[str, Any]]:
    """Measure strong scaling, the same batch on more ranks, and weak scaling, the same batch on each; a row a point.

    Sizes are those of `model`. Every rank has the same number of threads, such that the most ranks fill the cores.
    """
    each = max(1, cores // max(counts))
    for kind in ("strong", "weak"):
        jobs = [replace(model, ranks=n, threads=each, batch=model.batch * (n if kind == "weak" else 1)) for n in counts]
        found: dict[int, list[dict[str, Any]]] = {job.ranks: [] for job in jobs}
        for _ in range(rounds):
            for job in jobs:
                found[job.ranks].append(run(job))
        first = statistics.median(s for one in found[counts[0]] for s in one["seconds"]) / jobs[0].batch
        for job in jobs:
            taken = [second for one in found[job.ranks] for second in one["seconds"]]
            waited = [second for one in found[job.ranks] for second in one["communication"]]
            median = statistics.median(taken)
            speedup = first * job.batch / median
            yield {
                "kind": kind, **asdict(job), "parameters": found[job.ranks][0]["parameters"], "seconds": median,
                "low": float(np.percentile(taken, 25)), "high": float(np.percentile(taken, 75)),
                "speedup": speedup, "efficiency": speedup * counts[0] / job.ranks,
                "communication": statistics.median(waited) / median, "sent": found[job.ranks][0]["sent"],
            }  # fmt: skip


@dataclass(frozen=True)
class Link:
    """What connects devices, on paper: bytes a second that one sends, and seconds until each message is there."""

    name: str
    devices: int
    bandwidth: float
    latency: float


LINKS = (Link("8 GPUs, NVLink", 8, 360e9, 5e-6), Link("64 GPUs, InfiniBand", 64, 40e9, 3e-6))
"""Four fifths of the nominal 450 GB/s of an H100's NVLink, and of the 50 GB/s of a port of 400 Gbit/s for each GPU."""


def on_paper(link: Link, parameters: int, step: float) -> dict[str, float]:
    """What a step takes whose part on each device takes `step` seconds alone: a prediction, of weak scaling.

    Every device sends each other one a part of its gradients, and then its part of the sums: as many bytes as a ring's
    all-reduce, in as many messages. Nothing of it is hidden behind the backward pass.
    """
    others = link.devices - 1
    sent = 2 * 4 * parameters * others / link.devices
    communication = sent / link.bandwidth + 2 * others * link.latency
    return {"sent": sent, "communication": communication, "efficiency": step / (step + communication)}


if __name__ == "__main__":
    asked = Job(**json.loads(sys.argv[1]))
    result = json.dumps(measure(asked))
    if asked.ranks == 1 or MPI().rank == 0:
        sys.stdout.write(f"{result}\n")
