"""What ranks need of the engine that connects them."""

from __future__ import annotations

import os
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, NoReturn, TypeVar

from gpu_lstm.backend import Array
from gpu_lstm.errors import GpuLstmError

Value = TypeVar("Value")
EXPECTED = (GpuLstmError, OSError, MemoryError)
"""Errors that need no traceback."""


class Communicator(ABC):
    """The ranks of a job, seen from one of them.

    All ranks call the same methods in the same order; each call waits for the others.

    Attributes
    ----------
    rank, size : int
        Which of how many this one is.
    local_rank, local_size : int
        The same among those on this machine, which share its devices and cores.
    on_host : bool
        Whether arrays are NumPy's; else they are on the rank's device, and what is asked of that before is waited for.
    ordered : bool
        Whether training adds up gradients in an order that makes the same bits on any number of ranks; else by `sum`.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    on_host: ClassVar[bool] = True
    ordered: bool = True

    @abstractmethod
    def exchange(self, rows: Array) -> Array:
        """Send row k of `rows` (size, n) to rank k, for every k; return (size, n), what each has sent to this one."""

    @abstractmethod
    def join(self, row: Array) -> Array:
        """Return (size, n): the `row` (n,) of every rank, in order."""

    @abstractmethod
    def sum(self, array: Array) -> None:
        """Make an array its sum over all ranks, in place; added up in whatever order the engine has."""

    @abstractmethod
    def gather(self, value: Value) -> list[Value]:
        """Return what every rank has given, in order: any small value on the host that can be pickled."""

    @abstractmethod
    def broadcast(self, value: Value) -> Value:
        """Return what rank 0 has given: any value on the host that can be pickled."""

    def any(self, flag: bool) -> bool:
        """Return whether any rank has given True as its `flag`."""
        return any(self.gather(flag))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def every(self, work: Callable[[], Value]) -> list[Value]:
        """Return what `work` gives on every rank, in order, as `gather`; what it raises on one of them, all raise.

        So `work` may itself meet the others by this: whoever fails before is met there.
        """
        error, value = None, None
        try:
            value = work()
        except EXPECTED as raised:
            if getattr(raised, "agreed", False):
                raise
            error = raised
        found = self.gather((error, value))
        for rank, (other, _) in enumerate(found):
            if other is not None:
                raise _agreed(other if rank != self.rank or error is None else error, rank)
        return [made for _, made in found]  # type: ignore[misc]  # None only where there is an error

    def each(self, work: Callable[[], Value]) -> Value:
        """Return what `work` gives here, once all ranks have done it; what it raises on one of them, all raise."""
        made: list[Value] = []
        self.every(lambda: made.append(work()))
        return made[0]

    def first(self, work: Callable[[], Value]) -> Value | None:
        """Have rank 0 alone do some work, and the others wait for it; what it raises, all raise.

        Return what it gives, on rank 0.
        """
        return self.each(lambda: work() if self.rank == 0 else None)

    @contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Work of which the others know nothing: an error in it ends all ranks, with a line that says `doing` what.

        Not so an error that all ranks raise at once, and not where there is one rank.
        """
        try:
            yield
        except BaseException as error:
            if self.size == 1 or getattr(error, "agreed", False):
                raise
            if not isinstance(error, (*EXPECTED, KeyboardInterrupt)):
                say(traceback.format_exc())
            told = f"gpu-lstm: rank {self.rank}: {doing}: {error or type(error).__name__}"
            self.abort(told, 130 if isinstance(error, KeyboardInterrupt) else 2)

    @abstractmethod
    def abort(self, line: str, status: int = 1) -> NoReturn:
        """End all ranks at once, wherever they are, with a line on standard error and a `status`; it never returns."""


class Alone(Communicator):
    """One rank, connected to none."""

    def exchange(self, rows: Array) -> Array:  # noqa: D102
        return rows

    def join(self, row: Array) -> Array:  # noqa: D102
        return row[None, :]

    def sum(self, array: Array) -> None:  # noqa: D102
        return

    def gather(self, value: Value) -> list[Value]:  # noqa: D102
        return [value]

    def broadcast(self, value: Value) -> Value:  # noqa: D102
        return value

    def abort(self, line: str, status: int = 1) -> NoReturn:  # noqa: D102
        say(line)
        os._exit(status)


def _agreed(error: BaseException, rank: int) -> BaseException:
    """An error that all ranks raise; of another than rank 0 it says which."""
    if rank and isinstance(error, GpuLstmError):
        error = type(error)(f"rank {rank}: {error}")
    error.agreed = True  # type: ignore[attr-defined]
    return error


def say(line: str) -> None:
    """Write a last line to standard error, whatever state Python is in."""
    os.write(2, f"{line}\n".encode(errors="replace"))
