"""The CuPy backend's graphs, on a CuPy whose streams can be captured and whose cuBLAS refuses that, as CuPy's does.

With `-m gpu` the same on a GPU.
"""

import contextlib
import ctypes
import sys
import types
from typing import Any, ClassVar

import numpy as np
import pytest

from gpu_lstm import BackendError
from gpu_lstm.backend import CupyBackend, cupy_backend
from gpu_lstm.layers import lstm
from gpu_lstm.recurrence import sequence_cuda
from tests import recorded, test_cupy_backend
from tests.conftest import gpu_or_reason
from tests.emulated import needs_emulator
from tests.recorded import Namespace, Recorded, asked, converted, plain
from tests.test_beside import by_two
from tests.test_graph import same, text_task, trained, windows_task


class Stream:
    """cupy.cuda.Stream: launches that are captured are done when the graph is launched, not before."""

    numbers = iter(range(100, 10**6))
    forked: ClassVar[set[Any]] = set()  # into the capture of another stream, and not joined again

    def __init__(self, non_blocking=False):
        self.ptr, self.non_blocking, self.tape, self.held, self.reached = next(self.numbers), non_blocking, None, [], {}

    def __enter__(self):
        self.before, Cuda.current = Cuda.current, self

    def __exit__(self, *error):
        Cuda.current = self.before

    def begin_capture(self):
        assert self.non_blocking and Cuda.current is self, "the default stream can't be captured"
        self.tape, Recorded.backend = [], self

    def end_capture(self):
        Recorded.backend = None
        assert not self.forked, "unjoined work"
        return Graph(self.tape)

    def record(self, event):
        event.stream = self
        return event

    def wait_event(self, event):
        if Recorded.backend is event.stream:
            self.forked.add(self)
        elif Recorded.backend is self:
            self.forked.remove(event.stream)


class Graph:
    """cupy.cuda.Graph"""

    def __init__(self, tape):
        self.tape = tape

    def launch(self):
        assert Recorded.backend is None
        recorded.count.append("graph")
        for each in self.tape:
            each()


class Cuda:
    """The parts of cupy.cuda that a graph takes."""

    current = Stream()
    pools: ClassVar[list[Any]] = []

    class MemoryPool:
        def __init__(self):
            Cuda.pools.append(self)

        def malloc(self, size):
            raise AssertionError("NumPy allocates")

    class Event:
        def __init__(self, disable_timing):
            assert disable_timing

        def record(self):
            pass

        def synchronize(self):
            pass

    @staticmethod
    @contextlib.contextmanager
    def using_allocator(malloc):
        assert malloc == Cuda.pools[-1].malloc
        yield


class Binding(test_cupy_backend.Cublas):
    """cupy_backends.cuda.libs.cublas"""

    __file__ = "cublas.so"

    def gemmEx(self, *arguments):
        if Recorded.backend is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        super().gemmEx(7, *arguments[1:])

    def create(self):
        return 8

    def destroy(self, handle):
        assert handle == 8


class Function:
    """A function of a library, called with what its types allow."""

    argtypes: tuple[Any, ...] = ()

    def __init__(self, call):
        self.call = call

    def __call__(self, *arguments):
        assert len(arguments) == len(self.argtypes)
        return self.call(*(kind(value).value or 0 for kind, value in zip(self.argtypes, arguments, strict=True)))


class Library:
    """libcublas, found through the binding."""

    stream = workspace = status = 0

    def __init__(self):
        binding = test_cupy_backend.Cublas()
        self.cublasSetStream_v2, self.cublasSetWorkspace_v2 = Function(self._stream), Function(self._workspace)
        self.cublasGemmEx = Function(lambda *arguments: self._gemm(binding.gemmEx, arguments))
        self.cublasGemmStridedBatchedEx = Function(
            lambda *arguments: self._gemm(binding.gemmStridedBatchedEx, arguments)
        )

    def _stream(self, handle, stream):
        assert handle == (8 if Stream.forked else 7), "a handle is for one stream only"
        self.stream, self.workspace = stream, 0  # as cuBLAS does
        return 0

    def _workspace(self, handle, address, size):
        assert address and size == cupy_backend.WORKSPACE
        self.workspace = address
        return 0

    def _gemm(self, gemm, arguments):
        assert self.stream == Cuda.current.ptr and self.workspace
        assert Cuda.current is Recorded.backend or Cuda.current in Stream.forked
        if self.status == 0:
            recorded.count.append("beside" if Stream.forked else "main")
            asked("matmul", lambda: gemm(7, *arguments[1:]))
        return self.status


class RawModule(test_cupy_backend.RawModule):
    """cupy.RawModule, whose functions can be captured."""

    def get_function(self, name):
        found = super().get_function(name)

        def function(grid, block, args, *, shared_mem):
            args = plain(args)
            asked(name, lambda: found(grid, block, args, shared_mem=shared_mem))

        function.max_dynamic_shared_size_bytes, function.kernel = 10**6, found.kernel
        found.max_dynamic_shared_size_bytes = 10**6
        return function


@pytest.fixture
def backend(monkeypatch):
    cupy = test_cupy_backend.fake_cupy()
    namespace = Namespace()
    cupy.__getattr__ = lambda name: getattr(namespace, name)
    cupy.ndarray, cupy.RawModule = Recorded, RawModule
    cupy.asarray = converted
    cupy.asnumpy = lambda array: np.array(plain(array))
    del cupy.where
    for name in ("MemoryPool", "Event", "using_allocator"):
        setattr(cupy.cuda, name, getattr(Cuda, name))
    cupy.cuda.Stream, cupy.cuda.get_current_stream = Stream, lambda: Cuda.current
    cupy.cuda.alloc_pinned_memory = bytearray
    cupy.get_default_memory_pool = cupy.get_default_pinned_memory_pool = lambda: types.SimpleNamespace(
        free_all_blocks=lambda: None
    )
    libs = types.ModuleType("cupy_backends.cuda.libs")
    libs.cublas = Binding()
    for name, module in {
        "cupy": cupy,
        "cupy_backends": types.ModuleType("cupy_backends"),
        "cupy_backends.cuda": types.ModuleType("cupy_backends.cuda"),
        "cupy_backends.cuda.libs": libs,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)

    def copy(to, host, size, kind, stream):
        assert (kind, stream) == ("to device", Cuda.current.ptr)
        asked("to device", lambda: ctypes.memmove(to, host, size))

    cupy.cuda.runtime.memcpyAsync, cupy.cuda.runtime.memcpyHostToDevice = copy, "to device"

    def data(array):
        return types.SimpleNamespace(ptr=array.ctypes.data)

    monkeypatch.setattr(Recorded, "data", property(data), raising=False)
    monkeypatch.setattr(Recorded, "device", test_cupy_backend.Device(0), raising=False)
    load = ctypes.CDLL  # the emulator's, too
    monkeypatch.setattr(ctypes, "CDLL", lambda file, **how: Library() if file == "cublas.so" else load(file, **how))
    return CupyBackend()


@needs_emulator
@pytest.mark.parametrize("tier", ["sequence", "pointwise"])
def test_text(backend, tier):
    same(*(trained(text_task(backend, tier=tier), graph) for graph in (False, True)))


@needs_emulator
def test_products_beside_the_recurrence_are_captured_on_their_own_stream(backend, monkeypatch):
    monkeypatch.setattr(lstm, "segments", by_two)
    monkeypatch.setattr(sequence_cuda, "room_beside", lambda *_: True)
    recorded.count.clear()
    same(*(trained(text_task(backend, tier="sequence"), graph) for graph in (False, True)))
    assert {"beside", "main"} <= set(recorded.count)


@needs_emulator
def test_series(backend):
    same(*(trained(windows_task(backend), graph, epochs=3) for graph in (False, True)))


@needs_emulator
def test_a_step_that_fails_while_it_is_recorded_leaves_the_backend_as_it_was(backend, monkeypatch):
    x = backend.asarray(np.ones((2, 2), np.float32))

    def product():
        return backend.matmul(x, x, out=backend.xp.empty((2, 2), dtype=np.float32))

    monkeypatch.setattr(Library, "status", 13)
    with pytest.raises(BackendError, match="cublasGemmEx failed with status 13 while a step was recorded"):
        backend.record(product)
    with pytest.raises(BackendError, match="can't be recorded as a graph: calling cuBLAS API during stream capture"):
        backend.record(lambda: Binding().gemmEx())
    np.testing.assert_array_equal(backend.to_numpy(product()), np.full((2, 2), 2))


@pytest.mark.gpu
@pytest.mark.parametrize("tier", ["sequence", "pointwise"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_text_on_a_gpu(tier, dtype):
    device = gpu_or_reason()
    same(*(trained(text_task(device, dtype, tier), graph) for graph in (False, True)))


@pytest.mark.gpu
def test_series_on_a_gpu():
    device = gpu_or_reason()
    same(*(trained(windows_task(device), graph, epochs=3) for graph in (False, True)))
