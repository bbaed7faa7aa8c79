"""The CuPy backend: one NVIDIA GPU. CuPy is imported when the backend is made, never before."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import math
import os
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from gpu_lstm.backend.base import Array
from gpu_lstm.backend.cuda import CudaBackend, Device
from gpu_lstm.backend.exchange import CUDA, CUDA_MANAGED, adopt, foreign
from gpu_lstm.backend.graph import Graph, Result
from gpu_lstm.errors import BackendError
from gpu_lstm.native import catalogue, clusters, kernels
from gpu_lstm.native.kernels import Kernel, Launch, options, passed

INSTALL = 'install it with `pip install "gpu-lstm[cuda13]"` (or [cuda12] for an older driver)'

_NUMBERS = [np.array([0, 1], dtype) for dtype in ("float32", "float64")]
_SCALARS = [(both[:1].ctypes.data, both[1:].ctypes.data) for both in _NUMBERS]
"""Where cuBLAS reads 0 and 1, in float32 and in float64."""

_NULL = np.uintp(0)

TF32 = "GPU_LSTM_TF32"
"""Environment variable: 1 lets float32 matrices be multiplied in TF32."""
WORKSPACE = 32 * 2**20
"""Bytes that cuBLAS may use while it is recorded: what NVIDIA recommends for Hopper, the most of all devices."""
ALWAYS_THERE = 48 * 1024
"""Bytes of shared memory that a block may have without being allowed more."""


class RecordedCublas:
    """CuPy's binding of cuBLAS, for a stream that is being captured: CuPy refuses that, NVIDIA allows it.

    The two products go to the library itself, with CuPy's handle, the current stream and a workspace that stays: cuBLAS
    would take one of its own otherwise, at every capture.

    Parameters
    ----------
    binding : module
        ``cupy_backends.cuda.libs.cublas``; all but the products is its own.
    xp : module
        CuPy.
    """

    def __init__(self, binding: Any, xp: Any):
        self._binding, self._xp = binding, xp
        library = ctypes.CDLL(binding.__file__)  # finds what the binding is linked with, whatever that is called
        pointer, number = ctypes.c_void_p, ctypes.c_int
        matrix: list[Any] = [pointer, number, number]  # where it lies, its dtype, its leading dimension
        batched: list[Any] = [*matrix, ctypes.c_longlong]  # elements from one to the next
        sizes: list[Any] = [pointer, *[number] * 5, pointer]  # handle, operations, m, n, k, alpha
        self._gemm = library.cublasGemmEx
        self._gemm.argtypes = [*sizes, *matrix, *matrix, pointer, *matrix, number, number]
        self._gemms = library.cublasGemmStridedBatchedEx
        self._gemms.argtypes = [*sizes, *batched, *batched, pointer, *batched, number, number, number]
        self._set_stream, self._set_workspace = library.cublasSetStream_v2, library.cublasSetWorkspace_v2
        self._set_stream.argtypes, self._set_workspace.argtypes = [pointer] * 2, [pointer, pointer, ctypes.c_size_t]
        self._workspaces: dict[int, Array] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._binding, name)

    def gemmEx(self, handle: int, *arguments: int) -> None:
        """As CuPy's, with the same arguments."""
        self._use_current_stream(handle)
        _succeed("cublasGemmEx", self._gemm(handle, *arguments))

    def gemmStridedBatchedEx(self, handle: int, *arguments: int) -> None:
        """As CuPy's, with the same arguments."""
        self._use_current_stream(handle)
        _succeed("cublasGemmStridedBatchedEx", self._gemms(handle, *arguments))

    def _use_current_stream(self, handle: int) -> None:
        """CuPy's own next call sets the stream again, and with it the workspace."""
        stream = self._xp.cuda.get_current_stream().ptr
        if stream not in self._workspaces:
            self._workspaces[stream] = self._xp.empty((WORKSPACE,), dtype=self._xp.uint8)
        _succeed("cublasSetStream", self._set_stream(handle, stream))
        _succeed("cublasSetWorkspace", self._set_workspace(handle, self._workspaces[stream].data.ptr, WORKSPACE))


def _succeed(what: str, status: int) -> None:
    if status != 0:
        raise BackendError(f"{what} failed with status {status} while a step was recorded as a graph")


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
        self.limits = Device(
            multiprocessors=attributes["MultiProcessorCount"],
            shared_bytes=attributes["MaxSharedMemoryPerBlockOptin"],
            capability=int(self.device.compute_capability),
            cooperative=bool(attributes["CooperativeLaunch"]),
        )
        self._no_clusters = ""
        self._count_clusters()
        self._cublas, self._kinds = self._load_cublas()
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

    def owns(self, x: Any) -> bool:  # noqa: D102
        return isinstance(x, self.xp.ndarray) and x.device == self.device

    def receive(self, name: str, x: Any) -> Array:  # noqa: D102
        if self.owns(x):
            return x
        if isinstance(x, np.ndarray):
            raise foreign(name, x, self.name)
        # DLPack first: it makes the current stream wait for whatever the other library has still to do.
        ways = (("__dlpack__", self.xp.from_dlpack), ("__cuda_array_interface__", self.xp.asarray))
        with self.device:
            found = adopt(name, x, self.name, (CUDA, CUDA_MANAGED), self.device.id, ways)
        if not self.owns(found):
            raise foreign(name, x, self.name)
        return found

    def matmul(self, a: Array, b: Array, out: Array, add: bool = False) -> Array:
        """``out[...] = a @ b``, added to what `out` holds if `add`, by cuBLAS straight into `out`; returns `out`.

        `out` may be float32 where a and b are float16 or bfloat16; sums are in float32 then, too. float32 means
        float32, unless `tf32` was asked for. Of a and b (N, ., .) it is N products at once, and `out` may have gaps.
        """
        if a.ndim == 3:
            return self._matmuls(a, b, out, add)
        cublas = self._cublas
        a_form, b_form = _form(a, cublas), _form(b, cublas)
        if not out.flags.c_contiguous or 0 in (*a.shape, *b.shape):
            return super().matmul(a, b, out, add)
        if a_form is None or b_form is None:  # copies have no gaps; CuPy's own product can't be recorded
            return self.matmul(self._contiguous(a), self._contiguous(b), out, add)
        (rows, depth), columns = a.shape, b.shape[1]
        (a_step, a_op), (b_step, b_op) = a_form, b_form
        (kind, _), (out_kind, _) = self._kinds[a.dtype], self._kinds[out.dtype]
        compute, (zero, one) = self._compute(a, out)
        # cuBLAS counts in columns: it computes out^T = b^T a^T.
        cublas.gemmEx(
            self._own.handle or self.xp.cuda.device.get_cublas_handle(),
            b_op, a_op, columns, rows, depth,
            one, b.data.ptr, kind, b_step, a.data.ptr, kind, a_step,
            one if add else zero, out.data.ptr, out_kind, columns,
            compute, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip
        return out

    def _matmuls(self, a: Array, b: Array, out: Array, add: bool) -> Array:
        cublas, arrays = self._cublas, (a, b, out)
        forms = [form for x in arrays if 0 not in x.shape and (form := _form(x[0], cublas)) is not None]
        if len(forms) < 3 or forms[2][1] != cublas.CUBLAS_OP_N:
            return super().matmul(a, b, out, add)
        (a_row, a_op), (b_row, b_op), (out_row, _) = forms
        a_step, b_step, out_step = (array.strides[0] // array.itemsize for array in arrays)
        (count, rows, depth), columns = a.shape, b.shape[2]
        (kind, _), (out_kind, _) = self._kinds[a.dtype], self._kinds[out.dtype]
        compute, (zero, one) = self._compute(a, out)
        cublas.gemmStridedBatchedEx(
            self._own.handle or self.xp.cuda.device.get_cublas_handle(),
            b_op, a_op, columns, rows, depth,
            one, b.data.ptr, kind, b_row, b_step, a.data.ptr, kind, a_row, a_step,
            one if add else zero, out.data.ptr, out_kind, out_row, out_step,
            count, compute, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip
        return out

    def _compute(self, a: Array, out: Array) -> tuple[int, Any]:
        """In what cuBLAS adds up products of `a`'s kind for `out`, and 0 and 1 in it."""
        cublas = self._cublas
        compute: int = self._kinds[out.dtype][1]
        scalars = _SCALARS[compute == cublas.CUBLAS_COMPUTE_64F]
        if self.tf32 and self._kinds[a.dtype][0] == self.xp.cuda.runtime.CUDA_R_32F:
            compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32
        return compute, scalars

    def _capture(self, graph: Graph[Result], work: Callable[[], Result]) -> None:
        cuda, cublas = self.xp.cuda, self._cublas
        pool, stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)  # the default stream can't be captured
        with self.device, cuda.using_allocator(pool.malloc), stream:
            recorded = RecordedCublas(cublas, self.xp)
            self._cublas = recorded
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
        pinned = self.xp.cuda.alloc_pinned_memory(host.nbytes)
        memory = np.frombuffer(pinned, host.dtype, host.size).reshape(host.shape)
        array, cuda = self.xp.empty(host.shape, dtype=host.dtype), self.xp.cuda
        # CuPy's own copy refuses while a stream is captured.
        cuda.runtime.memcpyAsync(
            array.data.ptr, memory.ctypes.data, host.nbytes, cuda.runtime.memcpyHostToDevice,
            cuda.get_current_stream().ptr,
        )  # fmt: skip
        return memory, array

    def tanh(self, x: Array, out: Array) -> Array:  # noqa: D102
        return self.xp.tanh(x, out=out)

    def multiply(self, a: Array, b: Array, out: Array) -> Array:  # noqa: D102
        return self.xp.multiply(a, b, out=out)

    def kernel(self, kernel: Kernel) -> Launch:  # noqa: D102
        if kernel not in self._launches:
            self._launches[kernel] = self._compile(kernel)
        return self._launches[kernel]

    def _function(self, kernel: Kernel) -> Any:
        from gpu_lstm.native.ahead import said_if_slow  # not before CuPy, whose import takes longer

        module = self.xp.RawModule(
            code=kernel.source,
            options=options(),
            name_expressions=[kernel.expression],
            enable_cooperative_groups=kernel.cooperative,
        )
        try:
            with said_if_slow(kernel, self.limits.capability):
                return module.get_function(kernel.expression)
        except Exception as error:  # compiler, loader and missing libraries each raise their own
            raise not_compiled(kernel, error) from None

    def _compile(self, kernel: Kernel) -> Launch:
        function = self._function(kernel)
        # What a function is asked and told once: the driver takes microseconds for each.
        allowed, fitting = ALWAYS_THERE, set()

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_bytes: int = 0) -> None:
            nonlocal allowed
            self.device.use()
            if shared_bytes > allowed:
                most = self.limits.shared_bytes - function.shared_size_bytes
                function.max_dynamic_shared_size_bytes = most
                allowed = most
            if kernel.cooperative and (asked := (*grid, *block, shared_bytes)) not in fitting:
                self._require_resident(kernel, function, math.prod(grid), math.prod(block), shared_bytes)
                fitting.add(asked)
            if kernel.cooperative and kernel.cluster > 1:
                stream = self.xp.cuda.get_current_stream().ptr
                clusters.launch(function.kernel.ptr, grid, block, kernel.cluster, args, shared_bytes, stream)
                return
            function(grid, block, tuple([_argument(arg) for arg in args]), shared_mem=shared_bytes)

        return launch

    def _count_clusters(self) -> None:
        """Ask the driver how many clusters run at once, one block a multiprocessor; keep why it can't be asked."""
        limits = self.limits
        if limits.capability < catalogue.CLUSTERS_SINCE:
            return
        if not clusters.available():
            self._no_clusters = f"no cuda.bindings ({clusters.INSTALL})"
            return
        kernel = catalogue.kernel("sums_in_cluster")
        try:
            function = self._function(kernel)
            function.max_dynamic_shared_size_bytes = limits.shared_bytes
            asked = function.kernel.ptr, kernel.cluster, kernels.BLOCK, limits.shared_bytes
            limits = dataclasses.replace(limits, counted=clusters.resident(*asked, waiting=False))
            if limits.capability in catalogue.JOINT and limits.cooperative:
                limits = dataclasses.replace(limits, clusters=clusters.resident(*asked))
        except Exception as error:  # the compiler's, the driver's, of a library that is too old
            self._no_clusters = str(error) or type(error).__name__
        if limits.counted == 0:
            self._no_clusters = "the driver says that none fits"
        self.limits = limits

    def _require_resident(self, kernel: Kernel, function: Any, blocks: int, threads: int, shared_bytes: int) -> None:
        """Refuse a launch whose blocks wait for each other and can't all run at once: it would never end."""
        if kernel.cluster > 1:
            resident = clusters.resident(function.kernel.ptr, kernel.cluster, threads, shared_bytes) * kernel.cluster
        else:
            occupancy = self.xp.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
            resident = occupancy(function.kernel.ptr, threads, shared_bytes) * self.limits.multiprocessors
        if blocks > resident:
            raise BackendError(
                f"CUDA kernel {kernel.expression} needs {blocks} blocks at once; this device can run {resident} "
                f"of {threads} threads and {shared_bytes} bytes of shared memory (use tier pointwise)"
            )

    def _load_cublas(self) -> tuple[Any, dict[Any, tuple[int, int]]]:
        """CuPy's binding of cuBLAS; by dtype cuBLAS's number of it and of the arithmetic.

        Dtypes are keys as they are: NumPy needs microseconds to tell a dtype's name, at every step of a loop.
        """
        try:
            from cupy_backends.cuda.libs import cublas
        except ImportError as error:
            raise unavailable("CuPy found, no cuBLAS", f"cuBLAS can't be loaded: {error}; {INSTALL}") from None
        runtime = self.xp.cuda.runtime
        kinds = {
            self.dtype("float32"): (runtime.CUDA_R_32F, cublas.CUBLAS_COMPUTE_32F),
            self.dtype("float64"): (runtime.CUDA_R_64F, cublas.CUBLAS_COMPUTE_64F),
            self.dtype("float16"): (runtime.CUDA_R_16F, cublas.CUBLAS_COMPUTE_32F),
        }
        with contextlib.suppress(BackendError):  # without ml_dtypes there are no such arrays
            kinds[self.dtype("bfloat16")] = (runtime.CUDA_R_16BF, cublas.CUBLAS_COMPUTE_32F)
        return cublas, kinds

    def beside(self, work: Callable[[], Result], jobs: Sequence[Callable[[], object]]) -> Result:  # noqa: D102
        if not jobs:
            return work()
        with self.device:
            main = self.xp.cuda.get_current_stream()
            side = self._side = self._side or Side(self.xp, self._cublas)
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

    def synchronize(self) -> None:  # noqa: D102
        self.device.synchronize()

    def release(self) -> None:  # noqa: D102
        self.xp.get_default_memory_pool().free_all_blocks()
        self.xp.get_default_pinned_memory_pool().free_all_blocks()

    def available(self) -> int | None:  # noqa: D102
        with self.device:
            free: int = self.xp.cuda.runtime.memGetInfo()[0]
        return free + int(self.xp.get_default_memory_pool().free_bytes())

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


def _argument(value: Any) -> Any:
    """As CuPy takes it, which has no other form of a null pointer or of a struct."""
    if value is None:
        return _NULL
    return passed(value) if isinstance(value, tuple) else value


def _load(device: int) -> tuple[Any, Any]:
    """CuPy and the device, made current, after a first allocation has proved that it runs."""
    try:
        import cupy
    except ImportError as missing:
        if missing.name and missing.name.split(".")[0] == "cupy":
            raise unavailable("no CuPy", f"CuPy is not installed; {INSTALL}") from None
        raise unavailable("CuPy can't be imported", f"CuPy can't be imported: {missing}; {INSTALL}") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise unavailable(
            "CuPy found, no NVIDIA driver",
            f"CuPy found no usable NVIDIA driver ({error}); install the driver",
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
            "CuPy found, but its first kernel failed", f"CuPy's first kernel failed: {error}; {INSTALL}"
        ) from None
    return cupy, chosen


def not_compiled(kernel: Kernel, error: Exception) -> BackendError:
    """Error for a kernel that can't be compiled: what is missing and how to get it, or the compiler's own words."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if "error" in line] or text.strip().splitlines()[:1]
    said = lines[0] if lines else type(error).__name__
    if "could not open source file" in text or "cannot open source file" in text:
        cure = f"CUDA's headers are missing; {INSTALL}"
    elif "nvrtc" in text.lower() or isinstance(error, ImportError | OSError):
        cure = f"CUDA's compiler NVRTC is missing or too old for this device; {INSTALL}"
    else:
        cure = "tier reference runs without kernels; please report this with the output of `gpu-lstm info`"
    return BackendError(f"CUDA kernel {kernel.expression} can't be compiled: {said}; {cure}")


def _form(matrix: Array, cublas: Any) -> tuple[int, int] | None:
    """Elements from row to row and cuBLAS's operation, for a matrix in rows or in columns; None where it has gaps."""
    if matrix.ndim != 2:
        return None
    item, (rows, columns), (row, column) = matrix.itemsize, matrix.shape, matrix.strides
    row, column = row // item, column // item
    if (column == 1 or columns == 1) and (rows == 1 or row >= columns):
        return (row if rows > 1 else columns), cublas.CUBLAS_OP_N
    if (row == 1 or rows == 1) and (columns == 1 or column >= rows):
        return (column if columns > 1 else rows), cublas.CUBLAS_OP_T
    return None


def unavailable(reason: str, message: str) -> BackendError:
    """Error for a GPU that can't be used, with the short `reason` that ``auto`` prints."""
    error = BackendError(f"backend cupy can't run here: {message}")
    error.add_note(reason)
    return error
