"""The CuPy backend itself, on a CuPy of NumPy arrays, emulated kernels and cuBLAS by its definition.

What only a real CuPy can show is under `-m gpu`; here every line of the backend runs, addresses and all.
"""

import ctypes
import dataclasses
import sys
import threading
import types
from typing import Any, ClassVar

import numpy as np
import pytest

from gpu_lstm import LSTM, BackendError, InputError, cli
from gpu_lstm.backend import CupyBackend, ahead, choose, clusters, cupy_backend, kernels
from gpu_lstm.models import LanguageModel
from gpu_lstm.optimizers import make_optimizer
from gpu_lstm.recurrence import needed, onchip, sequence_cuda
from tests.emulated import DTYPES, dtype_of, module_of, needs_emulator
from tests.support import NUMPY, loss_and_gradients, problem, relative_error

CUDA_TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: "bfloat16"}


class Device:
    """cupy.cuda.Device"""

    multiprocessors, capability = 132, "90"

    def __init__(self, number):
        self.id = number
        self.compute_capability = Device.capability
        self.attributes = {
            "MultiProcessorCount": Device.multiprocessors,
            "MaxSharedMemoryPerBlockOptin": 227 * 1024,
            "CooperativeLaunch": 1,
        }

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return self.id

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def use(self):
        pass

    def synchronize(self):
        pass


class Located(np.ndarray):
    """An array with CuPy's way to say where it lies."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)

    @property
    def device(self):
        return Device(0)


class Cublas:
    """gemmEx by its definition: column-major matrices at addresses, leading dimensions, host scalars."""

    CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F, CUBLAS_GEMM_DEFAULT = 0, 1, 68, 70, -1
    CUBLAS_COMPUTE_32F_FAST_TF32 = 77
    tf32 = False  # expected where float32 is multiplied
    calls = 0

    def gemmEx(self, handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, *how):
        self.calls += 1
        compute = np.float64 if how[0] == self.CUBLAS_COMPUTE_64F else np.float32
        assert handle == 7
        assert how == (70 if c_type == 1 else 77 if self.tf32 and a_type == 0 else 68, -1)

        def matrix(address, kind, rows, columns, leading):
            assert leading >= rows
            dtype = dtype_of(CUDA_TYPES[kind])
            size = (leading * (columns - 1) + rows) * dtype.itemsize
            memory = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
            item = memory.itemsize
            return np.lib.stride_tricks.as_strided(memory, (rows, columns), (item, leading * item))

        first = matrix(a, a_type, m, k, lda) if op_a == 0 else matrix(a, a_type, k, m, lda).T
        second = matrix(b, b_type, k, n, ldb) if op_b == 0 else matrix(b, b_type, n, k, ldb).T
        scales = [np.frombuffer((ctypes.c_char * 8).from_address(s), compute)[0] for s in (alpha, beta)]
        out = matrix(c, c_type, m, n, ldc)
        kept = scales[1] * out.astype(compute) if scales[1] else 0
        out[...] = scales[0] * (first.astype(compute) @ second.astype(compute)) + kept

    def gemmStridedBatchedEx(
        self, handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, a_step, b, b_type, ldb, b_step, beta, c, c_type, ldc,
        c_step, count, *how,
    ):  # fmt: skip
        """gemmEx on each of some matrices, so many elements apart."""
        item = {kind: np.dtype(dtype).itemsize for kind, dtype in CUDA_TYPES.items()}
        for i in range(count):
            places = (
                start + i * step * item[kind]
                for start, step, kind in ((a, a_step, a_type), (b, b_step, b_type), (c, c_step, c_type))
            )
            a_i, b_i, c_i = places
            self.gemmEx(
                handle, op_a, op_b, m, n, k, alpha, a_i, a_type, lda, b_i, b_type, ldb, beta, c_i, c_type, ldc, *how
            )
        self.calls -= count - 1


class RawModule:
    """cupy.RawModule: compiles when a function is asked for."""

    error = None
    handles: ClassVar[dict[int, Any]] = {}  # modules and kernels by CUDA's handle

    def __init__(self, *, code, options, name_expressions, enable_cooperative_groups):
        assert options == kernels.OPTIONS
        self.code, self.names, self.cooperative = code, name_expressions, enable_cooperative_groups
        self.handle = 1234 + len(RawModule.handles)

    def get_function(self, name):
        if self.error is not None:
            raise self.error
        (kernel,) = (k for k in kernels.every_kernel() if k.source == self.code and k.expression == name)
        module = module_of(kernel, "fast")

        def function(grid, block, args, *, shared_mem):
            assert shared_mem <= function.max_dynamic_shared_size_bytes
            assert all(arg is not None for arg in args), "not every CuPy takes None as a null pointer"
            # The emulator wants a null pointer as None; addresses in a table it has to be told of.
            given = [None if isinstance(arg, np.uint64) and arg == 0 else arg for arg in args]
            module.launch(
                name,
                grid,
                block,
                given,
                shared_mem=shared_mem,
                cooperative=self.cooperative,
                cluster=(kernel.cluster,),  # compiled into the kernel: CuPy launches it like any other
                in_place=reached(kernel, given),
            )

        function.max_dynamic_shared_size_bytes, function.shared_size_bytes = 48 * 1024, 0
        function.kernel = types.SimpleNamespace(ptr=self.handle)
        RawModule.handles[self.handle] = module, kernel, function
        return function


def reached(kernel, args):
    """Arrays that a kernel reaches by the addresses in its table."""
    if kernel.name not in ("sum_of_squares", "update"):
        return []
    gradient = {v: k for k, v in kernels.STORAGE.items()}[kernel.arguments[0]]
    kinds = [kernels.ARITHMETIC[gradient], gradient, *[kernels.ARITHMETIC[gradient]] * 2]
    arrays = []
    for *addresses, size, _ in args[0].tolist():
        for address, kind in zip(addresses, kinds, strict=True):
            if address:
                memory = (ctypes.c_char * (size * np.dtype(kind).itemsize)).from_address(address)
                arrays.append(np.frombuffer(memory, kind))
    return arrays


def fake_cupy():
    cupy = types.ModuleType("cupy")

    def wrapped(value):
        if not callable(value) or isinstance(value, type):
            return value

        def call(*args, **kwargs):
            result = value(*args, **kwargs)
            return result.view(Located) if isinstance(result, np.ndarray | np.floating | np.integer) else result

        return call

    cupy.__getattr__ = lambda name: wrapped(getattr(np, name))
    cupy.ndarray, cupy.RawModule, cupy.__version__ = Located, RawModule, "14.0"
    cupy.asarray = lambda value, dtype=None, copy=None: np.array(value, dtype, copy=copy).view(Located)
    cupy.asnumpy = lambda array: np.array(array, subok=False)

    def where(condition, x, y):  # CuPy's has no loop for bfloat16
        result = np.where(condition, x, y)
        return (result.astype(np.float32) if str(result.dtype) == "bfloat16" else result).view(Located)

    cupy.where = where
    runtime = types.SimpleNamespace(
        CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}),
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda number: {"name": b"A GPU"},
        runtimeGetVersion=lambda: 13000,
        driverGetVersion=lambda: 13010,
        CUDA_R_32F=0,
        CUDA_R_64F=1,
        CUDA_R_16F=2,
        CUDA_R_16BF=14,
    )
    device = types.SimpleNamespace(get_cublas_handle=lambda: 7)
    driver = types.SimpleNamespace(occupancyMaxActiveBlocksPerMultiprocessor=lambda function, threads, shared: 1)
    stream = types.SimpleNamespace(ptr=77)
    cupy.cuda = types.SimpleNamespace(
        runtime=runtime, driver=driver, Device=Device, device=device, get_current_stream=lambda: stream
    )
    return cupy


class Driver(types.ModuleType):
    """cuda.bindings.driver: launches by handle, with the values that lie at the places it is given."""

    CUlaunchAttributeID = types.SimpleNamespace(
        CU_LAUNCH_ATTRIBUTE_COOPERATIVE="cooperative", CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION="cluster"
    )
    CUstream = int
    SIZES: ClassVar = {"sequence_backward": (4 * 14 * 8, 8, 8 * 4)}  # runs, gave_up, layout

    def __init__(self, clusters):
        super().__init__("cuda.bindings.driver")
        self.clusters, self.launches, self.status = clusters, [], 0

        def attribute():
            return types.SimpleNamespace(id=None, value=types.SimpleNamespace(clusterDim=types.SimpleNamespace()))

        self.CUlaunchConfig, self.CUlaunchAttribute = types.SimpleNamespace, attribute

    takes_both = True  # attributes, where it is asked how many

    def cuOccupancyMaxActiveClusters(self, handle, config):
        alone = config.numAttrs == 1
        self.check(handle, config, alone)
        return self.status or int(not (self.takes_both or alone)), self.clusters

    def cuLaunchKernelEx(self, config, handle, places, extra):
        self.check(handle, config)
        assert (config.hStream, extra) == (77, 0)
        module, kernel, _ = RawModule.handles[handle]
        sizes = self.SIZES[kernel.name]
        values = np.frombuffer((ctypes.c_char * (8 * len(sizes))).from_address(places), np.uint64)
        args = [
            np.frombuffer((ctypes.c_char * size).from_address(int(place)), f"V{size}")[0]
            for place, size in zip(values, sizes, strict=True)
        ]
        self.launches.append(kernel.expression)
        options = {"shared_mem": config.sharedMemBytes, "cooperative": True, "cluster": (8,)}
        module.launch(kernel.expression, (config.gridDimX,), (config.blockDimX,), args, **options)
        return (self.status,)

    def check(self, handle, config, alone=False):
        assert config.sharedMemBytes <= RawModule.handles[handle][2].max_dynamic_shared_size_bytes
        *together, cluster = config.attrs
        assert config.numAttrs == len(config.attrs)
        assert [(each.id, each.value.cooperative) for each in together] == [("cooperative", 1)] * (not alone)
        assert cluster.id == "cluster"
        assert vars(cluster.value.clusterDim) == {"x": 8, "y": 1, "z": 1}
        assert (config.gridDimY, config.gridDimZ, config.blockDimY, config.blockDimZ) == (1, 1, 1, 1)
        assert config.gridDimX % 8 == 0


@pytest.fixture
def driver(cupy, monkeypatch):
    module = Driver(clusters=2)
    bindings = types.ModuleType("cuda.bindings")
    bindings.driver = module
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", module)
    clusters.resident.cache_clear()
    yield module
    clusters.resident.cache_clear()


@pytest.fixture
def cupy(monkeypatch):
    libs = types.ModuleType("cupy_backends.cuda.libs")
    libs.cublas = Cublas()
    module = fake_cupy()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)  # not installed
    for name, stand_in in {
        "cupy": module,
        "cupy_backends": types.ModuleType("cupy_backends"),
        "cupy_backends.cuda": types.ModuleType("cupy_backends.cuda"),
        "cupy_backends.cuda.libs": libs,
    }.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    return module


def test_it_says_what_it_is(cupy):
    backend = choose("cupy")
    assert backend.why == "cupy:0 (A GPU)"
    assert backend.describe()["driver"] == "13010"
    assert choose("auto").name == "cupy:0"
    with pytest.raises(BackendError, match=r"device 1 asked for; expected one of 0\.\.0"):
        CupyBackend(1)


def test_without_cublas_it_cannot_run(cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", types.ModuleType("cupy_backends.cuda.libs"))
    with pytest.raises(BackendError, match=r"cuBLAS can't be loaded: .*pip install"):
        CupyBackend()
    assert choose("auto").why == "numpy (CuPy found, no cuBLAS)"


@needs_emulator
@pytest.mark.parametrize("tier", ["pointwise", "sequence"])
@pytest.mark.parametrize("lengths", [None, [3, 6, 1]], ids=["full", "lengths"])
@pytest.mark.parametrize("dtype, limit", [("float64", 1e-12), ("float32", 5e-6)])
def test_the_lstm_equals_the_oracle(cupy, dtype, limit, lengths, tier):
    backend = CupyBackend()
    oracle = LSTM(3, 8, 2, bidirectional=True, backend=NUMPY, tier="reference", dtype="float64")
    lstm = LSTM(3, 8, 2, bidirectional=True, backend=backend, dtype=dtype, tier=tier)
    data = problem(oracle, 6, 3)
    for name, param in oracle.params.items():
        lstm.params[name][...] = backend.asarray(param, dtype)
    expected = loss_and_gradients(oracle, data, lengths)[1]
    actual = loss_and_gradients(lstm, {name: array.astype(dtype) for name, array in data.items()}, lengths)[1]
    for name, array in expected.items():
        assert relative_error(actual[name], array) < limit, name
    assert backend._cublas.calls > 0


@needs_emulator
@pytest.mark.parametrize(
    "options", [{"heads": 2, "proj_size": 4, "zoneout_h": 0.2}, {"heads": 2, "layer_norm": True}], ids=str
)
def test_variants_equal_the_oracle(cupy, options):
    arguments = {"tier": "reference", "dtype": "float64"} | options
    oracle = LSTM(3, 8, 2, bidirectional=True, backend=NUMPY, **arguments)
    lstm = LSTM(3, 8, 2, bidirectional=True, backend=CupyBackend(), **arguments | {"tier": "auto"})
    assert lstm.plan.tier == "pointwise"
    rng = np.random.default_rng(0)
    sizes = {"x": (6, 3, 3), "dy": (6, 3, 2 * oracle.output_size)}
    sizes |= {"h0": (4, 3, oracle.output_size), "c0": (4, 3, 8), "dh": (4, 3, oracle.output_size), "dc": (4, 3, 8)}
    data = {name: rng.standard_normal(size) for name, size in sizes.items()}
    for name, param in oracle.params.items():
        lstm.params[name][...] = lstm.backend.asarray(param, "float64")
    expected, actual = (loss_and_gradients(one, data, [3, 6, 1])[1] for one in (oracle, lstm))
    for name, array in expected.items():
        assert relative_error(actual[name], array) < 1e-12, name


@needs_emulator
def test_training_steps_equal_those_on_numpy(cupy):
    tokens = np.random.default_rng(0).integers(0, 7, (6, 3))
    results = []
    for backend in (NUMPY, CupyBackend()):
        model = LanguageModel(7, 3, 5, 2, backend=backend, dtype="float64")
        optimizer = make_optimizer("adam", backend, model.params, 0.01)
        for _ in range(2):
            loss, _, gradients = model.loss(backend.asarray(tokens))
            read = backend.read(loss, optimizer.update(gradients, max_norm=0.5, loss=loss))
        results.append((read, {name: backend.to_numpy(param) for name, param in model.params.items()}))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-12)
    for name, param in results[0][1].items():
        assert relative_error(results[1][1][name], param) < 1e-12, name


@needs_emulator
@pytest.mark.parametrize("dtype, limit", [("float16", 4e-3), ("bfloat16", 3e-2)][: len(DTYPES) - 2])
def test_a_step_in_16_bits_is_close_to_that_of_float64(cupy, dtype, limit):
    tokens = np.random.default_rng(0).integers(0, 7, (6, 3))
    oracle = LanguageModel(7, 3, 8, 2, backend=NUMPY, dtype="float64")
    model = LanguageModel(7, 3, 8, 2, backend=CupyBackend(), dtype=dtype)
    loss, _, gradients = model.loss(cupy.asarray(tokens))
    expected_loss, _, expected = oracle.loss(tokens)
    assert model.backend.read(loss) == pytest.approx((float(expected_loss),), rel=limit)
    for name, gradient in expected.items():
        assert relative_error(model.backend.to_numpy(gradients[name]), gradient) < limit, name
    norm = make_optimizer("adam", model.backend, model.params, 0.01).update(gradients, max_norm=1.0, loss=loss)
    assert np.isfinite(model.backend.read(norm)).all()


@needs_emulator
@pytest.mark.parametrize("dtype, limit", [("float16", 4e-3), ("bfloat16", 3e-2)][: len(DTYPES) - 2])
def test_unequal_lengths_in_16_bits(cupy, dtype, limit):
    backend, lengths = CupyBackend(), [3, 6, 1]
    oracle = LSTM(3, 8, 2, bidirectional=True, backend=NUMPY, tier="reference", dtype="float64")
    lstm = LSTM(3, 8, 2, bidirectional=True, backend=backend, dtype=dtype)
    data = problem(oracle, 6, 3)
    for name, param in oracle.params.items():
        lstm.params[name][...] = param
    expected, _, tape = oracle.forward(data["x"], None, lengths)
    dx, _, gradients = oracle.backward(tape, data["dy"])
    y, _, tape = lstm.forward(backend.asarray(data["x"], dtype), None, lengths)
    assert str(y.dtype) == dtype
    assert relative_error(y.astype(np.float64), expected) < limit
    found = lstm.backward(tape, backend.asarray(data["dy"], dtype))
    assert relative_error(found[0].astype(np.float64), dx) < limit
    for name, gradient in gradients.items():
        assert relative_error(found[2][name], gradient) < limit, name


@needs_emulator
def test_a_grid_that_is_not_resident_is_refused_and_not_started(cupy, monkeypatch):
    backend = CupyBackend()
    backend.limits = dataclasses.replace(backend.limits, shared_bytes=24 * 1024, capability=80)  # a grid at H = 40
    z, weight_hh = (backend.asarray(np.zeros(shape, np.float32)) for shape in [(2, 3, 160), (160, 40)])
    assert sequence_cuda.forward(backend, z, weight_hh, None, None).h.shape == (3, 3, 40)
    monkeypatch.setattr(cupy.cuda.driver, "occupancyMaxActiveBlocksPerMultiprocessor", lambda *_: 0)
    backend._launches.clear()  # a kernel is asked about once
    with pytest.raises(
        BackendError, match=r"sequence_forward<float, Grid, 2, 1> needs \d+ blocks at once; .* run 0 of 512"
    ):
        sequence_cuda.forward(backend, z, weight_hh, None, None)


@needs_emulator
def test_a_grid_of_clusters_is_launched_by_cuda_bindings(cupy, driver, monkeypatch):
    backend = CupyBackend()
    assert backend.limits.clusters == 2
    every = onchip._candidates
    joint = {"forward": "grid", "backward": "joint"}
    monkeypatch.setattr(onchip, "_candidates", lambda *p: (x for x in every(*p) if x.form == joint[p[1]]))
    monkeypatch.setattr(onchip, "choose", onchip.choose.__wrapped__)
    oracle = LSTM(3, 8, backend=NUMPY, tier="reference", dtype="float64")
    lstm = LSTM(3, 8, backend=backend, dtype="float64", tier="sequence")
    data = problem(oracle, 6, 3)
    for name, param in oracle.params.items():
        lstm.params[name][...] = param
    expected, actual = (loss_and_gradients(one, data, [3, 6, 1])[1] for one in (oracle, lstm))
    for name, array in expected.items():
        assert relative_error(actual[name], array) < 1e-12, name
    assert driver.launches == ["sequence_backward<double, JointGrid, 1, 1>"]
    driver.clusters = 0
    clusters.resident.cache_clear()
    backend._launches.clear()
    with pytest.raises(BackendError, match=r"JointGrid, 1, 1> needs 8 blocks at once; this device can run 0 of 512"):
        loss_and_gradients(lstm, data)
    driver.status = 1
    clusters.resident.cache_clear()
    with pytest.raises(BackendError, match="cuOccupancyMaxActiveClusters failed: 1"):
        loss_and_gradients(lstm, data)


def test_a_grid_of_clusters_is_for_fast_ones(cupy, driver, monkeypatch):
    monkeypatch.setattr(Device, "capability", "120")
    limits = CupyBackend().limits
    assert (limits.clusters, limits.counted) == (0, driver.clusters)
    assert "grid of clusters" not in LSTM(4, 768, backend=CupyBackend()).plan.why()
    monkeypatch.setattr(Device, "capability", "100")
    assert CupyBackend().limits.clusters == driver.clusters
    monkeypatch.setattr(Device, "capability", "80")
    assert (CupyBackend().limits.clusters, CupyBackend().limits.clusters_at_once) == (0, 0)


def test_the_plan_fills_as_many_clusters_as_the_driver_counts(cupy, driver, monkeypatch):
    said = LSTM(4, 256, backend=CupyBackend(), dtype="bfloat16").plan.why()
    assert "clusters of 8 blocks" not in said, "2 at once take too long"
    driver.clusters = 16
    clusters.resident.cache_clear()
    backend = CupyBackend()
    assert backend.describe()["clusters at once"] == "16"
    said = LSTM(4, 256, backend=backend, dtype="bfloat16").plan.why()
    assert "8 clusters of 8 blocks" in said
    assert "; 16 clusters run at once, as the driver says;" in said
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    said = LSTM(4, 256, backend=CupyBackend(), dtype="bfloat16").plan.why()
    assert "; 16 clusters run at once, assumed, as the driver can't be asked;" in said


def test_a_driver_is_asked_once_more_with_clusters_alone(cupy, driver):
    driver.takes_both = False
    assert CupyBackend().limits.clusters == 2
    assert "no clusters at once" not in CupyBackend().describe()


def test_without_cuda_bindings_or_clusters_the_plan_says_so(cupy, driver, monkeypatch, capsys):
    for status, missing, count in ((1, False, 2), (0, False, 0), (0, True, 2)):
        driver.status, driver.clusters = status, count
        if missing:
            monkeypatch.setitem(sys.modules, "cuda.bindings", None)
        clusters.resident.cache_clear()
        backend = CupyBackend()
        assert backend.limits.clusters == 0
        why = backend.describe()["no clusters at once"]
        refused = "cuOccupancyMaxActiveClusters failed: 1" if status else "the driver says that none fits"
        assert why.startswith("no cuda.bindings (pip" if missing else refused)
        assert backend.limits.counted == (None if status or missing else 0)
        assert "clusters at once" not in backend.describe()
        cli.main(["info"])
        assert f"\n  no clusters at once: {why}\n" in capsys.readouterr().out
        said = LSTM(4, 768, backend=backend).plan.why()
        assert "no grid of clusters: cuda.bindings launches it, which can't here (pip install cuda-bindings, of" in said


# -- products ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 3), (5, 1, 3), (5, 4, 1), (1, 4, 1), (2, 3, 5)], ids=str)
@pytest.mark.parametrize(
    "dtype, out_dtype", [(dtype,) * 2 for dtype in DTYPES] + [(dtype, "float32") for dtype in DTYPES[2:]]
)
def test_cublas_is_asked_for_the_right_product(cupy, shape, transposed, dtype, out_dtype, add):
    rows, columns, depth = shape
    rng = np.random.default_rng(0)

    def located(rows, columns, turn, dtype):
        array = rng.standard_normal((columns, rows) if turn else (rows, columns)).astype(dtype_of(dtype)).view(Located)
        return array.T if turn else array

    a, b = located(rows, depth, transposed[0], dtype), located(depth, columns, transposed[1], dtype)
    out = located(rows, columns, False, out_dtype)
    wide = np.float64 if dtype == "float64" else np.float32
    expected = np.asarray(a, wide) @ np.asarray(b, wide) + (np.asarray(out, wide) if add else 0)
    backend = CupyBackend()
    assert backend.matmul(a, b, out=out, add=add) is out
    assert backend._cublas.calls == 1
    limit = {"float16": 1e-3, "bfloat16": 1e-2}.get(out_dtype, 1e-5)
    np.testing.assert_allclose(np.asarray(out, wide), expected, rtol=limit, atol=max(limit, 1e-3))


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 4, 3), (3, 5, 1, 3), (2, 4, 3, 1), (3, 4, 2, 5)], ids=str)
@pytest.mark.parametrize("dtype, out_dtype", [("float32",) * 2, ("float64",) * 2, ("float16", "float32")])
def test_cublas_is_asked_for_products_of_heads(cupy, shape, dtype, out_dtype, add):
    """Each head's part of the rows of h, times its W^T, into its part of the rows of the result."""
    heads, rows, columns, depth = shape
    rng = np.random.default_rng(0)

    def parts(width, kind):
        return rng.standard_normal((rows, heads, width)).astype(kind).view(Located).transpose(1, 0, 2)

    a, out = parts(depth, dtype), parts(columns, out_dtype)
    b = rng.standard_normal((heads, columns, depth)).astype(dtype).view(Located).transpose(0, 2, 1)
    wide = np.float64 if dtype == "float64" else np.float32
    expected = np.asarray(a, wide) @ np.asarray(b, wide) + (np.asarray(out, wide) if add else 0)
    backend = CupyBackend()
    assert backend.matmul(a, b, out=out, add=add) is out
    assert backend._cublas.calls == 1
    np.testing.assert_allclose(np.asarray(out), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_cublas_multiplies_float32_in_tf32_where_that_was_asked_for(cupy, monkeypatch, dtype):
    a = np.eye(3).astype(dtype_of(dtype)).view(Located)
    for asked, variable, expected in ((True, "0", True), (None, "1", True), (False, "1", False), (None, "0", False)):
        monkeypatch.setenv("GPU_LSTM_TF32", variable)
        backend = CupyBackend(tf32=asked)
        backend._cublas.tf32 = expected
        assert backend.tf32 == expected == ("float32 products" in backend.describe())
        np.testing.assert_array_equal(backend.matmul(a, a, out=a.copy()), a)
        both = np.stack([a, a]).view(Located)
        np.testing.assert_array_equal(backend.matmul(both, both, out=both.copy()), both)
    monkeypatch.delenv("GPU_LSTM_TF32")
    assert not CupyBackend().tf32


def test_what_cublas_has_no_form_for_goes_another_way(cupy):
    gaps = np.zeros((6, 6), np.float32)[::2, ::2]
    assert cupy_backend._form(gaps, Cublas) is None
    assert cupy_backend._form(np.zeros((2, 2, 2), np.float32), Cublas) is None
    assert cupy_backend._form(np.zeros((4, 6), np.float32)[:, :3], Cublas) == (6, 0)
    backend = CupyBackend()
    a, out = cupy.ones((6, 6), dtype=np.float32), cupy.ones((3, 3), dtype=np.float32)
    backend.matmul(a[::2, ::2], a[:3, :3], out=out, add=True)
    np.testing.assert_array_equal(out, 4)
    several = cupy.ones((2, 3, 3), dtype=np.float32)
    backend.matmul(cupy.ones((2, 6, 6), dtype=np.float32)[:, ::2, ::2], several, out=several, add=True)
    np.testing.assert_array_equal(several, 4)
    assert backend._cublas.calls == 0


# -- compiling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, message",
    [
        (
            RuntimeError('gates.cu(1): catastrophic error: cannot open source file "cuda_fp16.h"\n1 error'),
            r'check_range can\'t be compiled: .*cuda_fp16.h".*headers are missing.*pip install "gpu-lstm\[cuda13\]"',
        ),
        (ImportError("libnvrtc.so.13: cannot open shared object file"), r"NVRTC is missing or too old.*pip install"),
        (
            RuntimeError("nvrtc: error: invalid value for --gpu-architecture (-arch)"),
            r"NVRTC is missing or too old for this device; install it",
        ),
        (
            RuntimeError('cuda/embedding.cu(9): error: identifier "x" is undefined\n\n1 error detected'),
            r'cuda/embedding.cu\(9\): error: identifier "x" is undefined; tier reference runs without kernels',
        ),
    ],
)
def test_a_kernel_that_cannot_be_compiled_is_one_line_with_the_cure(cupy, monkeypatch, error, message):
    monkeypatch.setattr(RawModule, "error", error)
    with pytest.raises(BackendError, match=message) as raised:
        CupyBackend().kernel(kernels.check_range())
    assert "\n" not in str(raised.value)


def test_a_kernel_is_compiled_once_and_gets_null_pointers_as_numbers(cupy):
    made, calls = [], []

    class Recorded:
        def __init__(self, **arguments):
            made.append(arguments)

        def get_function(self, name):
            return lambda *launch, **more: calls.append((name, *launch, more))

    cupy.RawModule = Recorded
    backend, kernel = CupyBackend(), kernels.mean_loss("float32")
    for _ in range(2):
        backend.kernel(kernel)((1,), (32,), ("array", None, np.int64(3)))
    assert calls == [("mean_loss<float>", (1,), (32,), ("array", np.uintp(0), 3), {"shared_mem": 0})] * 2
    expected = {"code": kernel.source, "options": kernels.OPTIONS, "name_expressions": ["mean_loss<float>"]}
    assert made == [{**expected, "enable_cooperative_groups": False}]


class Slow:
    """A module whose compiler is done when the package has said that it takes a while, or can't be compiled."""

    said = None

    def __init__(self, **arguments):
        pass

    def get_function(self, name):
        if self.said is not None:
            assert self.said.wait(60)
        if name == "mean_loss<double>":
            raise RuntimeError("error: no such instruction")
        return lambda *launch, **more: None


@pytest.mark.parametrize("slow", [True, False])
def test_whoever_waits_for_a_compiler_is_told_so(cupy, monkeypatch, slow):
    backend, heard, messages = CupyBackend(), threading.Event(), []
    monkeypatch.setattr(ahead, "PATIENCE", 0 if slow else 1000)
    monkeypatch.setattr(Slow, "said", heard if slow else None)
    cupy.RawModule = Slow

    class Log:
        def info(self, message):
            messages.append(message)
            heard.set()

    monkeypatch.setattr(ahead, "_log", Log())
    for _ in range(2):
        backend.kernel(kernels.mean_loss("float32"))
    assert messages == ["compiling mean_loss<float> for sm_90, once"] * slow


def test_a_command_prints_what_the_package_logs_and_nobody_else_does(capsys, monkeypatch):
    monkeypatch.setattr(cli, "command", lambda arguments: ahead._log.info("compiling"))
    for _ in range(2):
        cli.main([])
    assert capsys.readouterr().err == "compiling\n" * 2
    ahead._log.info("compiling")
    assert capsys.readouterr().err == ""


def test_kernels_are_compiled_ahead_and_those_that_fail_stop_none(cupy, capsys, monkeypatch):
    cupy.RawModule = Slow
    every = needed.of_everything(CupyBackend().limits)
    assert cli.main(["info", "--backend", "cupy", "--compile", "all", "--jobs", "2"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert f"{len(every) - 1} of {len(every)} there after" in said[-1]
    lines = [line.split(" s  ", 1)[1] for line in said[-1 - len(every) : -1]]
    fails = [line for line in lines if "no such instruction" in line]
    assert sorted(set(lines) - set(fails)) == sorted({k.expression for k in every} - {"mean_loss<double>"})
    assert len(fails) == 1
    assert cli.main(["info", "--backend", "cupy", "--compile", "--dtype", "float16"]) == 0
    assert "sequence_forward<__half, Grid, 4, 1>" in capsys.readouterr().out
    assert cli.main(["info", "--backend", "numpy", "--compile"]) == 2
    assert "--compile is given for backend numpy (chosen by name); expected cupy" in capsys.readouterr().err


# -- arrays of other libraries -----------------------------------------------------------------------------------------


class Foreign:
    """An array of another library on a CUDA device, with DLPack, CUDA's interface, or both."""

    def __init__(self, values, ways, device=0):
        self.values, self.device, self.ndim = values, device, values.ndim
        if "dlpack" in ways:
            self.__dlpack_device__ = lambda: (2, device)
        if "interface" in ways:
            self.__cuda_array_interface__ = values.__array_interface__
            self.__array_interface__ = values.__array_interface__  # what the stand-in for cupy.asarray reads

    def __dlpack__(self, **how):
        return self.values.__dlpack__(**how)


@needs_emulator
@pytest.mark.parametrize("ways", ["dlpack", "interface", "dlpack interface"])
def test_memory_on_the_device_is_taken_as_it_is(cupy, ways):
    backend, values = CupyBackend(), np.random.default_rng(0).standard_normal((4, 2, 3), np.float32)
    taken = backend.receive("x", Foreign(values, ways))
    assert type(taken) is Located
    assert taken.ctypes.data == values.ctypes.data
    lstm = LSTM(3, 8, backend=backend)
    y, _, tape = lstm.forward(Foreign(values, ways))
    np.testing.assert_array_equal(y, lstm.forward(backend.asarray(values))[0])
    assert lstm.backward(tape, Foreign(np.ones((4, 2, 8), np.float32), ways))[0].shape == values.shape


def test_memory_elsewhere_is_refused_by_name(cupy):
    backend, values = CupyBackend(), np.ones(3, np.float32)
    with pytest.raises(InputError, match="x is a numpy.ndarray; expected an array of backend cupy:0"):
        backend.receive("x", values)
    with pytest.raises(InputError, match="x is a .*Foreign on CUDA device 1; expected one of backend cupy:0"):
        backend.receive("x", Foreign(values, "dlpack", device=1))
