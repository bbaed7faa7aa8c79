"""The CuPy backend: one NVIDIA GPU. CuPy is imported when the backend is made, never before."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from gpu_lstm.backend.base import Array
from gpu_lstm.backend.cuda import CudaBackend, contiguous
from gpu_lstm.backend.exchange import CUDA, CUDA_MANAGED, adopt, foreign
from gpu_lstm.backend.graph import Graph, Result
from gpu_lstm.errors import BackendError
from gpu_lstm.native import launch
from gpu_lstm.native.cublas import Cublas
from gpu_lstm.native.kernels import Kernel, Launch

TF32 = "GPU_LSTM_TF32"
"""Environment variable: 1 lets float32 matrices be multiplied in TF32."""


class CupyBackend(CudaBackend):
    """Arrays are ``cupy.ndarray`` on one device.

    Parameters
    ----------
    device : int
        CUDA device number.
    tf32 : bool or None
        Round float32 matrices to TF32 where they are multiplied: faster, with about 3 digits of each factor. None: as
        the environment variable ``GPU_LSTM_TF32`` says, 1 for yes. Not unless asked for.

    Raises
    ------
    BackendError
        CuPy isn't installed, there is no driver, or no such device; `reason` holds the short form.
    """

    records: ClassVar[bool] = True

    def __init__(self, device: int = 0, tf32: bool | None = None):
        super().__init__()
        self.tf32 = os.environ.get(TF32, "0") not in ("", "0") if tf32 is None else tf32
        self._cupy, self.device = _load(device)
        self._launches: dict[Kernel, Launch] = {}
        self.name = f"cupy:{device}"
        attributes = self.device.attributes
        self.limits = launch.Device(
            multiprocessors=attributes["MultiProcessorCount"],
            shared_bytes=attributes["MaxSharedMemoryPerBlockOptin"],
            capability=int(self.device.compute_capability),
            cooperative=bool(attributes["CooperativeLaunch"]),
        )
        self._no_clusters = ""
        self._count_clusters()
        self._cublas = self._load_cublas()
        self._side: Side | None = None
        self.why = f"{self.name} ({self.describe()['device']})"

    @property
    def xp(self) -> Any:
        """CuPy, with the backend's device as this thread's current one: what is asked of it goes there."""
        self.device.use()
        return self._cupy

    def asarray(self, value: Any, dtype: str | None = None) -> Array:  # noqa: D102
        if not isinstance(value, self.xp.ndarray):
            self._not_recorded("takes data of the host")
        with self.device:
            return self.xp.asarray(value, dtype=None if dtype is None else self.dtype(dtype))

    def to_numpy(self, x: Array) -> np.ndarray:  # noqa: D102
        self._not_recorded("waits for the device")
        host: np.ndarray = self.xp.asnumpy(x)
        return host

    def __contains__(self, x: Any) -> bool:
        return isinstance(x, self.xp.ndarray) and bool(x.device == self.device)

    def _adopt(self, name: str, x: Any) -> Array:
        if isinstance(x, np.ndarray):
            raise foreign(name, x, self.name)
        # DLPack first: it makes the current stream wait for whatever the other library has still to do.
        ways = (("__dlpack__", self.xp.from_dlpack), ("__cuda_array_interface__", self.xp.asarray))
        with self.device:
            found = adopt(name, x, self.name, (CUDA, CUDA_MANAGED), self.device.id, ways)
        if found not in self:
            raise foreign(name, x, self.name)
        return found

    def matmul(self, a: Array, b: Array, out: Array, add: bool = False) -> Array:
        """``out[...] = a @ b``, added to what `out` holds if `add`, by cuBLAS straight into `out`; returns `out`.

        `out` may be float32 where a and b are float16 or bfloat16; sums are in float32 then, too. float32 means
        float32, unless `tf32` was asked for. Of a and b (N, ., .) it is N products at once, and `out` may have gaps.
        """
        handle = self._own.handle or self.xp.cuda.device.get_cublas_handle()
        if self._cublas.multiply(handle, a, b, out, add, self.tf32):
            return out
        if a.ndim == 3 or not out.flags.c_contiguous or 0 in (*a.shape, *b.shape):
            return super().matmul(a, b, out, add)
        # Copies have no gaps; CuPy's own product can't be recorded.
        return self.matmul(contiguous(self, a), contiguous(self, b), out, add)

    def kernel(self, kernel: Kernel) -> Launch:  # noqa: D102
        if kernel not in self._launches:
            self._launches[kernel] = self._compile(kernel)
        return self._launches[kernel]

    def _compile(self, kernel: Kernel) -> Launch:
        return launch.compiled(self.xp, self.device, self.limits, kernel)

    def _count_clusters(self) -> None:
        """Complete the limits by what the driver says of clusters; keep why it can't be asked."""
        self.limits, self._no_clusters = launch.count_clusters(self.xp, self.limits)

    def _load_cublas(self) -> Cublas:
        try:
            from cupy_backends.cuda.libs import cublas
        except ImportError as error:
            message = f"cuBLAS can't be loaded: {error}; {launch.INSTALL}"
            raise unavailable("CuPy found, no cuBLAS", message) from None
        return Cublas(cublas, self.xp, self.dtype)

    def _capture(self, graph: Graph[Result], work: Callable[[], Result]) -> None:
        cuda, cublas = self.xp.cuda, self._cublas
        pool, stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)  # the default stream can't be captured
        with self.device, cuda.using_allocator(pool.malloc), stream:
            self._cublas = recorded = cublas.recorded()
            stream.begin_capture()
            try:
                graph.result = work()
            except BaseException:
                with contextlib.suppress(Exception):  # the capture is broken, too; what broke it is told
                    stream.end_capture()
                raise
            finally:
                self._cublas = cublas
            captured = stream.end_capture()
            done = cuda.Event(disable_timing=True)

        def launch() -> None:
            with self.device:
                captured.launch()
                done.record()

        graph.launch, graph.wait = launch, done.synchronize
        graph.held = pool, stream, recorded

    def _from_memory(self, host: np.ndarray) -> tuple[np.ndarray, Array]:
        return launch.copied_at_replay(self.xp, host)

    def beside(self, work: Callable[[], Result], jobs: Sequence[Callable[[], object]]) -> Result:  # noqa: D102
        if not jobs:
            return work()
        with self.device:
            main = self.xp.cuda.get_current_stream()
            side = self._side = self._side or Side(self.xp, self._cublas.binding)
            side.stream.wait_event(main.record(side.event()))
            result = work()  # launched first: it takes the multiprocessors that it needs, the jobs get the others
            self._own.handle = side.handle
            try:
                with side.stream:
                    for job in jobs:
                        job()
            finally:
                self._own.handle = None
                main.wait_event(side.stream.record(side.event()))
        return result

    def _wait(self) -> None:
        self.device.synchronize()

    def memory(self, release: bool = False) -> int | None:  # noqa: D102
        pool = self.xp.get_default_memory_pool()
        if release:
            pool.free_all_blocks()
            self.xp.get_default_pinned_memory_pool().free_all_blocks()
        with self.device:
            free: int = self.xp.cuda.runtime.memGetInfo()[0]
        return free + int(pool.free_bytes())

    def describe(self) -> dict[str, str]:  # noqa: D102
        runtime = self.xp.cuda.runtime
        name = runtime.getDeviceProperties(self.device.id)["name"]
        return {
            "backend": self.name,
            "cupy": self.xp.__version__,
            "cuda": str(runtime.runtimeGetVersion()),
            "driver": str(runtime.driverGetVersion()),
            "device": name.decode() if isinstance(name, bytes) else str(name),
            **({"clusters at once": str(self.limits.counted)} if self.limits.counted else {}),
            **({"no clusters at once": self._no_clusters} if self._no_clusters else {}),
            **({"float32 products": "TF32"} if self.tf32 else {}),
        }


class Side:
    """A second stream, with a cuBLAS handle of its own.

    With one handle for two streams that run at once, cuBLAS promises no longer the same bits from run to run. CuPy's
    pool keeps freed memory for the stream that it was allocated on: what `Backend.beside` asks of jobs.
    """

    def __init__(self, xp: Any, cublas: Any):
        self.stream = xp.cuda.Stream(non_blocking=True)
        self.handle: int = cublas.create()
        weakref.finalize(self, cublas.destroy, self.handle).atexit = False
        self.event = partial(xp.cuda.Event, disable_timing=True)


def _load(device: int) -> tuple[Any, Any]:
    """CuPy and the device, made current, after a first allocation has proved that it runs."""
    try:
        import cupy
    except ImportError as missing:
        if missing.name and missing.name.split(".")[0] == "cupy":
            raise unavailable("no CuPy", f"CuPy is not installed; {launch.INSTALL}") from None
        raise unavailable("CuPy can't be imported", f"CuPy can't be imported: {missing}; {launch.INSTALL}") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise unavailable(
            "CuPy found, no NVIDIA driver", f"CuPy found no usable NVIDIA driver ({error}); install the driver"
        ) from None
    if device >= count:
        raise unavailable(
            f"CuPy found, {count} device(s)", f"device {device} asked for; expected one of 0..{count - 1}"
        )
    chosen = cupy.cuda.Device(device)
    try:
        chosen.use()
        cupy.zeros(1) + 1
    except Exception as error:  # whatever the first kernel raises, the device can't be used
        raise unavailable(
            "CuPy found, but its first kernel failed", f"CuPy's first kernel failed: {error}; {launch.INSTALL}"
        ) from None
    return cupy, chosen


def devices() -> int:
    """Return how many GPUs this process sees; 0 where CuPy is not there or finds no driver."""
    try:
        import cupy

        count: int = cupy.cuda.runtime.getDeviceCount()
        return count
    except Exception:  # whatever it raises, the choice of a device says why
        return 0


def unavailable(reason: str, message: str) -> BackendError:
    """Return the error for a GPU that can't be used, with the short `reason` that ``auto`` prints."""
    error = BackendError(f"backend cupy can't run here: {message}")
    error.add_note(reason)
    return error
