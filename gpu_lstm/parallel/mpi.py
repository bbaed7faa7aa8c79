"""Ranks that MPI has started and carries NumPy arrays between."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError
from gpu_lstm.parallel.communicator import Communicator, Value, say
from gpu_lstm.parallel.launched import place


class MPI(Communicator):
    """The ranks of an MPI job, by mpi4py: ``mpiexec -n 4 python -m mpi4py train.py``.

    Parameters
    ----------
    among : mpi4py communicator, optional
        Some of the job's ranks; all if not given.
    ordered : bool
        False: gradients are summed by MPI, in its own order. Then other numbers of ranks make other bits.

    Raises
    ------
    InputError
        mpi4py or an MPI library is not installed, or it is not of the MPI whose launcher has started this process.
    """

    def __init__(self, among: Any = None, ordered: bool = True):
        try:
            from mpi4py import MPI as mpi
        except (ImportError, RuntimeError) as error:
            told = "ranks need mpi4py and an MPI library; install both with `pip install 'gpu-lstm[mpi]'`"
            raise InputError(f"{told} ({error})") from None
        world = mpi.COMM_WORLD
        if (known := place()) is not None and known.size != world.Get_size():
            raise InputError(
                f"{known.said_by} says that there are {known.size} ranks, but the MPI library that mpi4py found sees "
                f"{world.Get_size()}; start them with the mpiexec of that library"
            )
        self._comm = (world if among is None else among).Dup()  # so that nobody else's messages come between
        self._in_place, self._most, self.ordered = mpi.IN_PLACE, mpi.MAX, ordered
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        local = self._comm.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.Get_rank(), local.Get_size()
        local.Free()

    def exchange(self, rows: Array) -> Array:  # noqa: D102
        arrived = np.empty_like(rows)
        self._comm.Alltoall(rows, arrived)
        return arrived

    def join(self, row: Array) -> Array:  # noqa: D102
        rows = np.empty((self.size, *row.shape), row.dtype)
        self._comm.Allgather(row, rows)
        return rows

    def sum(self, array: Array) -> None:  # noqa: D102
        self._comm.Allreduce(self._in_place, array)

    def any(self, flag: bool) -> bool:  # noqa: D102
        found = np.array([flag])
        self._comm.Allreduce(self._in_place, found.view(np.int8), self._most)
        return bool(found[0])

    def gather(self, value: Value) -> list[Value]:  # noqa: D102
        gathered: list[Value] = self._comm.allgather(value)
        return gathered

    def broadcast(self, value: Value) -> Value:  # noqa: D102
        received: Value = self._comm.bcast(value)
        return received

    def abort(self, line: str, status: int = 1) -> NoReturn:  # noqa: D102
        say(line)
        self._comm.Abort(status)
        raise SystemExit(status)  # never reached
