"""Signals that a command handles by itself for a while."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOP = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what asks a process to end."""


@contextmanager
def handled(handler: Callable[[int, object], None], numbers: tuple[int, ...] = STOP) -> Iterator[None]:
    """Have `handler` take these signals; afterwards, what took them before does again."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
