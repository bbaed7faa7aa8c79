"""What ranks need of the engine that connects them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import ClassVar, NoReturn, TypeVar

from gpu_lstm.backend import Array

Value = TypeVar("Value")


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
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    on_host: ClassVar[bool] = True

    @abstractmethod
    def exchange(self, rows: Array) -> Array:
        """Send row k of (size, n) to rank k, for every k; return (size, n), what each rank has sent to this one."""

    @abstractmethod
    def join(self, row: Array) -> Array:
        """Return (size, n): the (n,) of every rank, in order."""

    @abstractmethod
    def sum(self, array: Array) -> None:
        """Make an array its sum over all ranks, in place; added up in whatever order the engine has."""

    @abstractmethod
    def gather(self, value: Value) -> list[Value]:
        """Return what every rank has given, in order: any small value on the host that can be pickled."""

    @abstractmethod
    def broadcast(self, value: Value) -> Value:
        """Return what rank 0 has given: any value on the host that can be pickled."""

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    @abstractmethod
    def abort(self, line: str, status: int = 1) -> NoReturn:
        """End all ranks at once, wherever they are, with one line on standard error; it never returns."""


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


def say(line: str) -> None:
    """Write a last line to standard error, whatever state Python is in."""
    os.write(2, f"{line}\n".encode(errors="replace"))
