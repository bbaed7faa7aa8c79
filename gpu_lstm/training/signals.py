"""Signals that a program handles by itself for a while."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def noted(numbers: tuple[int, ...], then: Any, tell: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Whether one of these signals has come, which is told and no more; `then` takes the next one."""
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        came = True
        for each in numbers:
            signal.signal(each, then)
        tell()

    with handled(note, numbers):
        yield lambda: came
