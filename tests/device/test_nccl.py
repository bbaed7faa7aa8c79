"""Ranks with a GPU each: NCCL through CuPy's binding, each rank a thread with a device of its own."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gpu_lstm.backend import CupyBackend
from gpu_lstm.errors import BackendError
from gpu_lstm.parallel import Communicator
from gpu_lstm.parallel.nccl import NCCL
from tests.device.support import needs_machine

pytestmark = needs_machine


class Threads(Communicator):
    """Ranks that are threads of this process, for what goes through the host."""

    def __init__(self, rank, size, values, barrier):
        self.rank = self.local_rank = rank
        self.size = self.local_size = size
        self._values, self._barrier = values, barrier

    def gather(self, value):
        self._values[self.rank] = value
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()
        return found

    def broadcast(self, value):
        return self.gather(value)[0]

    def exchange(self, *arguments):
        raise NotImplementedError

    join: Any = exchange
    sum: Any = exchange
    abort: Any = exchange


def on_ranks(work, devices=(0, 1)):
    """What `work(communicator, backend)` gives on each rank."""
    size = len(devices)
    values, barrier = [None] * size, threading.Barrier(size)

    def rank(number):
        backend = CupyBackend(devices[number])
        return work(NCCL(Threads(number, size, values, barrier), backend), backend)

    with ThreadPoolExecutor(size) as pool:
        return [each.result(60) for each in [pool.submit(rank, number) for number in range(size)]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_rows_are_exchanged_and_joined(dtype):
    rows = np.arange(2 * 2 * 5).reshape(2, 2, 5).astype(dtype)

    def work(comm, backend):
        assert not comm.on_host and (comm.size, comm.local_size) == (2, 2)
        mine = backend.asarray(rows[comm.rank])
        arrived, joined = comm.exchange(mine), comm.join(mine[1])
        assert arrived in backend and joined in backend
        return backend.to_numpy(arrived), backend.to_numpy(joined), backend.to_numpy(mine)

    for rank, (arrived, joined, mine) in enumerate(on_ranks(work)):
        assert (arrived == rows[:, rank]).all()
        assert (joined == rows[:, 1]).all()
        assert (mine == rows[rank]).all()


def test_views_with_gaps_and_nothing_at_all():
    rows = np.arange(60.0).reshape(2, 10, 3)

    def work(comm, backend):
        gaps = backend.asarray(rows[comm.rank])[::5]
        nothing = comm.exchange(backend.asarray(np.zeros((2, 0)))), comm.join(backend.asarray(np.zeros(0)))
        assert [part.shape for part in nothing] == [(2, 0), (2, 0)]
        return backend.to_numpy(comm.exchange(gaps))

    for rank, arrived in enumerate(on_ranks(work)):
        assert (arrived == rows[:, ::5][:, rank]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_are_in_place_and_the_same_on_all(dtype):
    parts = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(dtype)

    def work(comm, backend):
        array = backend.asarray(parts[comm.rank])
        assert comm.sum(array) is None
        return backend.to_numpy(array)

    first, second = on_ranks(work)
    assert (first == second).all()
    assert np.allclose(first, parts.sum(axis=0))


def test_what_is_no_array_goes_through_the_host():
    def work(comm, backend):
        return comm.gather(f"rank {comm.rank}"), comm.broadcast(comm.rank), comm.barrier()

    found = on_ranks(work)
    assert found == [(["rank 0", "rank 1"], 0, None)] * 2


def test_two_ranks_on_one_device_are_refused():
    with pytest.raises(BackendError, match=r"NCCL can't connect rank . of 2 on cupy:0: .*one device; expected a GPU"):
        on_ranks(lambda comm, backend: None, devices=(0, 0))


def test_calls_that_differ_between_ranks_are_an_error_and_no_hang(capfd):
    def work(comm, backend):
        comm.join(backend.asarray(np.zeros(3 + comm.rank)))

    with pytest.raises(Exception, match="wanted .* bytes, and came"):
        on_ranks(work)
