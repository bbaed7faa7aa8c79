"""A backend whose arrays CUDA kernels take, as far as the host is concerned: what is recorded, what is told later.

`CupyBackend` is the one on a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from gpu_lstm.backend.base import Array, Backend, numpy_dtype
from gpu_lstm.backend.graph import Graph, Result
from gpu_lstm.errors import BackendError, out_of_range
from gpu_lstm.native.kernels import Kernel, Launch
from gpu_lstm.native.launch import Device as Device

LEAST_STEPS = 256
"""Steps from which a launch of the recurrence takes long beside those around it: see "Products beside the recurrence"
in ``kernels/cuda/README.md``."""
_RANGES = 16
"""Arguments whose range may be checked between two calls of `read`."""


class OfThread(threading.local):
    """What each thread that uses a backend has of its own."""

    def __init__(self) -> None:
        # of numbers in a range, since the last `read`: where in `ranges` those lie that are out of it
        self.checks: dict[tuple[str, int, str], int] = {}
        self.ranges: Array = None
        self.recording: Graph[Any] | None = None  # what its calls are recorded in
        self.handle: int | None = None  # of cuBLAS, where it isn't CuPy's


class CudaBackend(Backend):
    """A backend whose arrays CUDA kernels take. Nothing here but `read` waits for the device."""

    kernels: ClassVar[str] = "cuda"
    takes_out: ClassVar[bool] = True
    least_steps: ClassVar[int] = LEAST_STEPS
    limits: Device  # what the GPU has
    tf32: bool = False  # whether float32 matrices are rounded to TF32 where they are multiplied: 10 bits of mantissa

    def __init__(self) -> None:
        self._own = OfThread()

    def dtype(self, name: str) -> Any:  # noqa: D102
        if name == "bfloat16" and self.limits.capability < 80:
            have = self.limits.capability / 10
            raise BackendError(
                f"dtype bfloat16 needs compute capability 8.0; {self.name} has {have}, where float16 runs"
            )
        return numpy_dtype(name)

    def kernel(self, kernel: Kernel) -> Launch:
        """Return a CUDA kernel, compiled at its first use and kept.

        Raises BackendError where the kernel can't be compiled here.
        """
        raise NotImplementedError

    # -- a step as a graph ------------------------------------------------------------------------------

    @property
    def recording(self) -> bool:
        """Whether what this thread asks of the device is recorded and not done."""
        return self._own.recording is not None

    def upload(self, make: Callable[[], np.ndarray]) -> Array:  # noqa: D102
        host = make()
        if self._own.recording is None:
            return self.asarray(host)
        memory, array = self._from_memory(host)
        memory[...] = host
        self._own.recording.uploads.append((memory, make))
        return array

    def record(self, work: Callable[[], Result]) -> Graph[Result]:  # noqa: D102
        self._read(())  # whatever was checked before has nothing to do with it
        if self._own.ranges is None:
            self._clear_ranges()
        graph: Graph[Result] = Graph()
        self._own.recording = graph
        try:
            self._capture(graph, work)
        except BackendError:
            raise
        except RuntimeError as error:  # CUDA's, and CuPy's own of what it doesn't capture
            raise BackendError(f"a step can't be recorded as a graph: {error}") from None
        finally:
            self._own.recording = None
            checks, self._own.checks = self._own.checks, {}

        def expect() -> None:
            self._read(())
            self._own.checks = dict(checks)

        graph.expect = expect
        return graph

    def _capture(self, graph: Graph[Result], work: Callable[[], Result]) -> None:
        """Call `work` while launches are recorded and not done; set the graph's result, launch, wait and held."""
        raise NotImplementedError

    def _from_memory(self, host: np.ndarray) -> tuple[np.ndarray, Array]:
        """Memory of the host, and an array that is recorded to be filled from it, both like `host`."""
        raise NotImplementedError

    def _not_recorded(self, what: str) -> None:
        """Refuse what a graph can't do again."""
        if self._own.recording is not None:
            raise BackendError(f"a step that {what} can't be recorded as a graph")

    # -- what is told when it is read --------------------------------------------------------------------

    def bounds(self, name: str, size: int, what: str) -> tuple[Array, Array]:
        """Return where a kernel leaves the smallest and the largest number of argument `name` outside of 0..size-1.

        The next `read` raises where it left any; `what` is the size's name, for the message.
        """
        key = (name, size, what)
        if self._own.ranges is None:
            self._clear_ranges()
        if key not in self._own.checks and len(self._own.checks) == _RANGES:
            self._read(())
        place = self._own.checks.setdefault(key, len(self._own.checks))
        return self._own.ranges[0, place : place + 1], self._own.ranges[1, place : place + 1]

    def read(self, *scalars: Array) -> tuple[float, ...]:  # noqa: D102
        if not scalars:
            self._wait()
        return self._read(scalars)

    def _wait(self) -> None:
        """Wait until everything asked of the device is done."""

    def _read(self, scalars: Sequence[Array]) -> tuple[float, ...]:
        """What `read` does, without waiting where there is nothing to read."""
        checks, self._own.checks = self._own.checks, {}
        if not (scalars or checks):
            return ()
        # One copy to the host for all; whole numbers beyond 2^53 lose digits, in a message only.
        count = len(scalars)
        values = self.xp.empty((count + 2 * _RANGES * bool(checks),), dtype=self.xp.float64)
        for place, scalar in enumerate(scalars):
            values[place] = scalar
        if checks:
            values[count:] = self.xp.reshape(self._own.ranges, (-1,))
        values = self.to_numpy(values)
        ranges = values[count:].reshape(2, -1)
        for (name, size, what), place in checks.items():
            low, high = (int(bound) for bound in ranges[:, place])
            if low <= high:
                self._clear_ranges()
                raise out_of_range(name, low, high, size, what)
        return tuple(float(value) for value in values[:count])

    def _clear_ranges(self) -> None:
        """No number was out of range: smallest above largest. The array stays, graphs have its address."""
        bounds = np.iinfo(np.int64)
        if self._own.ranges is None:
            self._own.ranges = self.xp.empty((2, _RANGES), dtype=self.xp.int64)
        self._own.ranges[0, :], self._own.ranges[1, :] = bounds.max, bounds.min


def contiguous(backend: Backend, array: Array) -> Array:
    """Return the array, or a copy without gaps; what is no array of the backend comes back for others to refuse."""
    gaps = array in backend and not array.flags.c_contiguous
    return backend.xp.ascontiguousarray(array) if gaps else array
