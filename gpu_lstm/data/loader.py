"""A thread that makes the next batch while the step of the current one runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Loader(Generic[Batch]):
    """Batches by number, the following one made ahead, by a pure function: it is called in another thread."""

    def __init__(self, make: Callable[[int], Batch]):
        self._make = make
        self._ahead: tuple[int, Future[Batch]] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0
        self.waited = 0.0  # seconds that `get` has waited for batches
        self.end: int | None = None  # how many batches there are to be: none is made ahead from that number on

    def get(self, number: int) -> Batch:
        """Return the batch of that number; what `make` raised is raised here."""
        begun = time.perf_counter()
        if self._pool is None or self._process != os.getpid():  # a child after fork has none of its parent's threads
            self._pool, self._process, self._ahead = ThreadPoolExecutor(1, "loader"), os.getpid(), None
        ahead = self._ahead
        batch = ahead[1].result() if ahead is not None and ahead[0] == number else self._make(number)
        self._ahead = None
        if self.end is None or number + 1 < self.end:
            self._ahead = number + 1, self._pool.submit(self._make, number + 1)
        self.waited += time.perf_counter() - begun
        return batch
