"""Ranks that are threads of one process, for tests of what ranks do rather than of the engine that connects them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_lstm.parallel import Communicator


class Aborted(Exception):
    """A rank has ended all others."""

    agreed = True


class Meeting:
    """Where threads wait for one another, each with something to show."""

    def __init__(self, size):
        self.size, self.shown, self.told = size, [None] * size, []
        self.barrier = threading.Barrier(size, timeout=60)

    def show(self, rank, value):
        try:
            self.shown[rank] = value
            self.barrier.wait()
            found = list(self.shown)
            self.barrier.wait()
        except threading.BrokenBarrierError:
            raise Aborted from None
        return found


class Threads(Communicator):
    """One of the ranks; `moved` counts the bytes that it has sent to others."""

    def __init__(self, meeting, rank, ordered=True):
        self.meeting, self.rank, self.size, self.ordered = meeting, rank, meeting.size, ordered
        self.local_rank, self.local_size = self.rank, self.size
        self.moved = 0

    def exchange(self, rows):
        assert len(rows) == self.size
        self.moved += rows.nbytes - rows[0].nbytes
        return np.stack([other[self.rank] for other in self.meeting.show(self.rank, rows.copy())])

    def join(self, row):
        self.moved += row.nbytes * (self.size - 1)
        return np.stack(self.meeting.show(self.rank, row.copy()))

    def sum(self, array):
        array[...] = np.sum(self.meeting.show(self.rank, array.copy()), axis=0)

    def gather(self, value):
        return self.meeting.show(self.rank, value)

    def broadcast(self, value):
        return self.meeting.show(self.rank, value)[0]

    def abort(self, line, status=1):
        self.meeting.told.append((line, status))
        self.meeting.barrier.abort()
        raise Aborted


def on_ranks(size: int, work: Callable[[Threads], Any], ordered: bool = True) -> list[Any]:
    """What `work` gives on each of so many ranks, or the error that it raises there."""
    meeting = Meeting(size)
    found: list[Any] = [None] * size

    def one(rank: int) -> None:
        try:
            found[rank] = work(Threads(meeting, rank, ordered))
        except BaseException as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
