"""A command that MPI's mpiexec, or srun, has started as one of several ranks: its device, its cores, who speaks."""

from __future__ import annotations

import os
import platform
import sys
from argparse import Namespace

from gpu_lstm.backend import VARIABLE, Backend, choose, devices
from gpu_lstm.errors import InputError
from gpu_lstm.native import compiled
from gpu_lstm.parallel import MPI, Alone, Communicator, place

ORDERS = ("ordered", "fast")
"""How gradients are summed: to the same bits on any number of ranks, or however the engine does it."""
COMMANDS = ("train", "info", "check")
"""Commands that may be started as ranks."""


def speaks() -> bool:
    """Whether this process prints: it is rank 0, or there are none."""
    here = place()
    return here is None or here.rank == 0


def complain(line: str) -> None:
    """Print an error, which all ranks have met: once."""
    if speaks():
        print(line, file=sys.stderr, flush=True)


def begin(command: str) -> None:
    """Have only rank 0 print what is no error.

    Raises InputError where the command is nothing for ranks.
    """
    if not speaks():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for as long as Python runs)
    if (here := place()) is not None and command not in COMMANDS:
        raise InputError(f"gpu-lstm {command} is for one process; {here.said_by} says that there are {here.size} ranks")


def connect(options: Namespace) -> Communicator:
    """The ranks of the job that this process is in, each with its share of the cores; or this one alone."""
    if (here := place()) is None:
        return Alone()
    if options.data == "-":
        raise InputError(f"data is -, standard input; expected a file, which each of {here.size} ranks reads")
    ranks = MPI(ordered=options.reduce != "fast")
    share_cores(ranks)
    return ranks


def share_cores(ranks: Communicator) -> None:
    """Use so many threads as this rank's share of its machine's cores, unless the environment says how many.

    The cores are all those that ranks on this machine may run on: where the launcher has given each its own, these.
    """
    if any(os.environ.get(variable) for variable in compiled.THREADS_VARIABLES):
        return
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    here = platform.node()
    every = ranks.gather((here, cores))
    ours = set().union(*(cores for node, cores in every if node == here))
    threads = max(1, len(ours) // ranks.local_size)
    os.environ[compiled.THREADS_VARIABLES[0]] = str(threads)
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return  # NumPy's own products, of which training has few, then take what they are told at their start
    threadpool_limits(threads)


def announce_of_rank(name: str | None, ranks: Communicator) -> Backend:
    """Choose this rank's backend and say which: of the GPUs that it sees, that of its number on its machine.

    Raises
    ------
    InputError, BackendError
        As `gpu_lstm.backend.choose`; or a device is named, which would be that of all ranks.
    """
    name = name or os.environ.get(VARIABLE) or "auto"
    if ranks.local_size > 1 and ":" in name:
        raise InputError(f"backend is {name} for each of {ranks.local_size} ranks; expected cupy: each takes its own")
    gpus = name in ("auto", "cupy") and devices()
    backend = choose(f"cupy:{ranks.local_rank % gpus}" if gpus else name)
    print(f"backend: {backend.why}; rank 0 of {ranks.size}", flush=True)
    return backend
