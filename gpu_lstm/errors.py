"""The errors that a user can cause; the command line turns each into one line and exit status 2."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class GpuLstmError(Exception):
    """Base of every error that gpu_lstm raises on purpose."""

    agreed: bool = False  # whether all ranks of a job raise it at once


class InputError(GpuLstmError, ValueError):
    """An argument, file or array that can't be used; the message names it and says what was expected."""


class BackendError(GpuLstmError, RuntimeError):
    """A backend or tier that was asked for by name and can't run here; the message says what would help."""


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give the system's errors the path that they are about, where they come without one, as those of writes do."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def out_of_range(name: str, low: int, high: int, size: int, what: str) -> InputError:
    """Return the error for whole numbers that are no places in something of that size, called `what`."""
    return InputError(f"{name} has values {low}..{high}; expected 0..{what}-1={size - 1}")
