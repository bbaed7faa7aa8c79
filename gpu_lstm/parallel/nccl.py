"""Ranks with a GPU each, whose arrays go from device to device by NCCL, through CuPy's own binding of it."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, NoReturn

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import BackendError
from gpu_lstm.parallel.communicator import Communicator, Value

SUMMED = ("float16", "float32", "float64")
"""Types that NCCL adds up through CuPy's binding; anything can be moved."""


class NCCL(Communicator):
    """Ranks that another communicator connects, with their devices connected to one another.

    Arrays are CuPy's; what is done with them comes after all that was asked of the current stream before, and is not
    waited for. What is no array goes through `host`.

    Parameters
    ----------
    host : Communicator
        That of the engine which started the ranks.
    backend : Backend
        This rank's GPU, which no other rank has.

    Raises
    ------
    BackendError
        NCCL is not installed; or, as the first array travels, it refuses: two ranks have one device.
    """

    on_host: ClassVar[bool] = False

    def __init__(self, host: Communicator, backend: Backend):
        self._nccl, self._host, self._backend = binding(), host, backend
        self.rank, self.size, self.ordered = host.rank, host.size, host.ordered
        self.local_rank, self.local_size = host.local_rank, host.local_size
        self._connected: Any = None
        self._types = {name: getattr(self._nccl, f"NCCL_{name.upper()}") for name in SUMMED}

    @property
    def _comm(self) -> Any:
        """NCCL's own, which all ranks connect to when the first array travels."""
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    def _connect(self) -> Any:
        name = self._host.broadcast(self._nccl.get_unique_id() if self.rank == 0 else b"")
        try:
            return self._nccl.NcclCommunicator(self.size, name, self.rank)
        except self._nccl.NcclError as error:
            where = f"rank {self.rank} of {self.size} on {self._backend.name}"
            raise BackendError(f"NCCL can't connect {where}: {error}; expected a GPU for each rank") from None

    @property
    def _xp(self) -> Any:
        """CuPy, with this rank's device as the current one."""
        return self._backend.xp

    def exchange(self, rows: Array) -> Array:  # noqa: D102
        rows = self._xp.ascontiguousarray(rows)
        arrived, row, stream = self._xp.empty_like(rows), rows[0].nbytes, self._stream()
        arrived[self.rank] = rows[self.rank]
        comm = self._comm
        self._nccl.groupStart()  # all at once: one after the other, each would wait for its peer
        for peer in range(self.size):
            if peer != self.rank and row:
                comm.send(rows.data.ptr + peer * row, row, self._nccl.NCCL_UINT8, peer, stream)
                comm.recv(arrived.data.ptr + peer * row, row, self._nccl.NCCL_UINT8, peer, stream)
        self._nccl.groupEnd()
        return arrived

    def join(self, row: Array) -> Array:  # noqa: D102
        row = self._xp.ascontiguousarray(row)
        rows = self._xp.empty((self.size, *row.shape), dtype=row.dtype)
        if row.nbytes:
            self._comm.allGather(row.data.ptr, rows.data.ptr, row.nbytes, self._nccl.NCCL_UINT8, self._stream())
        return rows

    def sum(self, array: Array) -> None:  # noqa: D102
        if not array.flags.c_contiguous:
            raise BackendError(f"array of shape {array.shape} has strides {array.strides}; expected it C-contiguous")
        if array.nbytes:
            place, kind = array.data.ptr, self._types[str(array.dtype)]
            self._comm.allReduce(place, place, array.size, kind, self._nccl.NCCL_SUM, self._stream())

    def gather(self, value: Value) -> list[Value]:  # noqa: D102
        return self._host.gather(value)

    def broadcast(self, value: Value) -> Value:  # noqa: D102
        return self._host.broadcast(value)

    def abort(self, line: str, status: int = 1) -> NoReturn:  # noqa: D102
        self._host.abort(line, status)

    def _stream(self) -> int:
        return int(self._xp.cuda.get_current_stream().ptr)


def nearest(ranks: Communicator, backend: Backend) -> Communicator:
    """The same ranks, connected such that their arrays travel from where the backend has them.

    Raises BackendError where that takes NCCL, which is not installed.
    """
    return NCCL(ranks, backend) if ranks.size > 1 and backend.kernels == "cuda" else ranks


def binding() -> Any:
    """CuPy's module of NCCL; raises BackendError where the library isn't there."""
    with warnings.catch_warnings():  # CuPy's says the same in five lines
        warnings.simplefilter("ignore")
        from cupy.cuda import nccl
    if not nccl.available:
        raise BackendError(
            "NCCL is not installed, which carries arrays between GPUs: pip install 'gpu-lstm[cuda13]' (or cuda12)"
        )
    return nccl
