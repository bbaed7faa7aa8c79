"""Kernels compiled before they are needed, several at a time, and a word to whoever waits for one.

A kernel is compiled at its first use, for seconds if it is one of ``sequence.cu``, and kept in CuPy's cache on disk.
NVRTC compiles in as many threads as ask it to.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from gpu_lstm.errors import BackendError
from gpu_lstm.native.kernels import Kernel

PATIENCE = 0.5
"""Seconds after which it is said that a kernel is being compiled; one that comes from the cache takes milliseconds."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compiled:
    """A kernel that can be launched, after so many seconds; or why it can't be."""

    kernel: Kernel
    seconds: float
    error: str = ""


@contextlib.contextmanager
def said_if_slow(kernel: Kernel, architecture: int) -> Iterator[None]:
    """Log, for as long as it takes, that a kernel is being compiled; nothing where it is there at once."""
    said = f"compiling {kernel.expression} for sm_{architecture}, once"
    timer = threading.Timer(PATIENCE, _log.info, [said])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def compile_all(compile_one: Callable[[Kernel], object], kernels: Sequence[Kernel], jobs: int) -> Iterator[Compiled]:
    """Have `compile_one` compile kernels, `jobs` at a time in their order; each is given as soon as it is done."""

    def one(kernel: Kernel) -> Compiled:
        begun = time.perf_counter()
        try:
            compile_one(kernel)
        except BackendError as error:
            return Compiled(kernel, time.perf_counter() - begun, str(error))
        return Compiled(kernel, time.perf_counter() - begun)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(one, kernel) for kernel in kernels]):
                yield future.result()
        finally:  # whoever asked has had enough, or was interrupted: those that have begun are waited for
            pool.shutdown(wait=False, cancel_futures=True)
