"""The CuPy backend itself: what it says, how it multiplies and launches, whose arrays it takes."""

import dataclasses
import re
import sys
import threading
import types

import numpy as np
import pytest

from gpu_lstm import LSTM, BackendError, InputError, cli
from gpu_lstm.backend import CupyBackend, choose
from gpu_lstm.native import ahead, catalogue, clusters
from gpu_lstm.native.cublas import form
from gpu_lstm.native.launch import Device, not_compiled
from gpu_lstm.recurrence.cuda import needed
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from tests.gpu import DTYPES, H100, Gpu, on_host, stored
from tests.support import NUMPY, OnDevice, loss_and_gradients, one_forward, problem, relative_error
from tests.test_cuda_sequence import force


@pytest.mark.gpu
def test_it_says_what_it_is():
    backend = choose("cupy")
    assert backend.why == f"cupy:0 ({backend.describe()['device']})"
    assert int(backend.describe()["driver"]) >= 12000
    assert choose("auto").name == "cupy:0"
    with pytest.raises(BackendError, match=r"device 99 asked for; expected one of 0\.\."):
        CupyBackend(99)


@pytest.mark.gpu
def test_without_cublas_it_cannot_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", types.ModuleType("cupy_backends.cuda.libs"))
    monkeypatch.delitem(sys.modules, "cupy_backends.cuda.libs.cublas")
    with pytest.raises(BackendError, match=r"cuBLAS can't be loaded: .*pip install"):
        CupyBackend()
    assert choose("auto").why == "numpy (CuPy found, no cuBLAS)"


# -- launches ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_grid_that_is_not_resident_is_refused_and_not_started(monkeypatch):
    backend = CupyBackend()
    z, weight_hh = (backend.asarray(np.zeros(shape, np.float32)) for shape in [(2, 3, 160), (160, 40)])
    force(monkeypatch, "grid")
    assert one_forward(sequence_cuda, backend, z, weight_hh, None, None).h.shape == (3, 3, 40)
    backend._launches.clear()  # a kernel is asked about once
    monkeypatch.setattr(backend.xp.cuda.driver, "occupancyMaxActiveBlocksPerMultiprocessor", lambda *_: 0)
    with pytest.raises(
        BackendError, match=r"sequence_forward<float, Grid, \d, 1> needs \d+ blocks at once; .* run 0 of \d+"
    ):
        one_forward(sequence_cuda, backend, z, weight_hh, None, None)


@pytest.fixture
def driver(monkeypatch):
    """cuda.bindings' driver, on a GPU that can launch grids of clusters; what it says of them is asked anew."""
    if not Gpu().limits.clusters:
        pytest.skip("no grid of clusters can be launched here")
    from cuda.bindings import driver

    clusters.resident.cache_clear()
    yield driver
    clusters.resident.cache_clear()


@pytest.mark.gpu
def test_a_grid_of_clusters_is_launched_by_cuda_bindings(driver, monkeypatch):
    force(monkeypatch, "joint")
    backend, launched, launch = Gpu(), [], driver.cuLaunchKernelEx
    monkeypatch.setattr(driver, "cuLaunchKernelEx", lambda *how: launched.append(how) or launch(*how))
    oracle = LSTM(3, 8, backend=NUMPY, tier="reference", dtype="float64")
    lstm = LSTM(3, 8, backend=backend, dtype="float64", tier="sequence")
    data = problem(oracle, 6, 3)
    for name, param in oracle.params.items():
        lstm.params[name][...] = backend.asarray(param)
    expected, actual = (loss_and_gradients(one, data, [3, 6, 1])[1] for one in (oracle, lstm))
    for name, array in expected.items():
        assert relative_error(actual[name], array) < 1e-12, name
    assert len(launched) == 1
    for answer, message in (
        ((0, 0), r"JointGrid, 1, 1> needs \d+ blocks at once; this device can run 0 of \d+"),
        ((1, 0), "cuOccupancyMaxActiveClusters failed: 1"),
    ):
        monkeypatch.setattr(driver, "cuOccupancyMaxActiveClusters", lambda *_, answer=answer: answer)
        clusters.resident.cache_clear()
        backend.there._launches.clear()
        with pytest.raises(BackendError, match=message):
            loss_and_gradients(lstm, data)


@pytest.mark.gpu
def test_a_grid_of_clusters_is_for_fast_ones(driver):
    backend = Gpu()
    counted = backend.limits.counted
    for capability, clusters_there, at_once in ((120, False, counted), (100, True, counted), (80, False, 0)):
        backend.limits = Device(132, 227 * 1024, capability)
        backend._count_clusters()
        assert (backend.limits.clusters > 0, backend.limits.clusters_at_once) == (clusters_there, at_once)
        assert clusters_there or "grid of clusters" not in LSTM(4, 768, backend=backend).plan.why()


@pytest.mark.gpu
def test_the_plan_fills_as_many_clusters_as_the_driver_counts(driver, monkeypatch):
    backend = Gpu()
    for count in (2, 16):
        monkeypatch.setattr(driver, "cuOccupancyMaxActiveClusters", lambda *_, count=count: (0, count))
        clusters.resident.cache_clear()
        backend.limits = H100
        backend._count_clusters()
        said = LSTM(4, 256, backend=backend, dtype="bfloat16").plan.why()
        assert ("8 clusters of 8 blocks" in said) == (count == 16), "2 at once take too long"
    assert backend.describe()["clusters at once"] == "16"
    assert "; 16 clusters run at once, as the driver says;" in said
    backend.limits = H100
    said = LSTM(4, 256, backend=backend, dtype="bfloat16").plan.why()
    assert "; 16 clusters run at once, assumed, as the driver can't be asked;" in said


@pytest.mark.gpu
def test_a_driver_is_asked_once_more_with_clusters_alone(driver, monkeypatch):
    ask = driver.cuOccupancyMaxActiveClusters
    monkeypatch.setattr(
        driver, "cuOccupancyMaxActiveClusters", lambda f, config: (1, 0) if config.numAttrs == 2 else ask(f, config)
    )
    backend = CupyBackend()
    assert backend.limits.clusters == Gpu().limits.clusters
    assert "no clusters at once" not in backend.describe()


@pytest.mark.gpu
def test_without_cuda_bindings_or_clusters_the_plan_says_so(driver, monkeypatch, capsys):
    for answer, why in (
        ((1, 0), "cuOccupancyMaxActiveClusters failed: 1"),
        ((0, 0), "the driver says that none fits"),
        (None, "no cuda.bindings (pip"),
    ):
        monkeypatch.setattr(driver, "cuOccupancyMaxActiveClusters", lambda *_, answer=answer: answer)
        if answer is None:
            monkeypatch.setitem(sys.modules, "cuda.bindings", None)  # not installed
        clusters.resident.cache_clear()
        backend = CupyBackend()
        assert backend.limits.clusters == 0
        said = backend.describe()["no clusters at once"]
        assert said.startswith(why)
        assert backend.limits.counted == (0 if answer == (0, 0) else None)
        assert "clusters at once" not in backend.describe()
        cli.main(["info"])
        assert f"\n  no clusters at once: {said}\n" in capsys.readouterr().out
        backend.limits = dataclasses.replace(backend.limits, multiprocessors=132)
        said = LSTM(4, 768, backend=backend).plan.why()
        assert "no grid of clusters: cuda.bindings launches it, which can't here (pip install cuda-bindings, of" in said


# -- products ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 3), (5, 1, 3), (5, 4, 1), (1, 4, 1), (2, 3, 5)], ids=str)
@pytest.mark.parametrize(
    "dtype, out_dtype", [(dtype,) * 2 for dtype in DTYPES] + [(dtype, "float32") for dtype in DTYPES[2:]]
)
def test_cublas_is_asked_for_the_right_product(cuda, shape, dtype, out_dtype):
    rows, columns, depth = shape
    rng = np.random.default_rng(0)
    limit = {"float16": 1e-3, "bfloat16": 1e-2}.get(out_dtype, 1e-5)

    def located(rows, columns, turn, dtype):
        array = cuda.asarray(stored(rng.standard_normal((columns, rows) if turn else (rows, columns)), dtype))
        return array.T if turn else array

    for first, second, add in np.ndindex(2, 2, 2):
        a, b = located(rows, depth, first, dtype), located(depth, columns, second, dtype)
        out = located(rows, columns, False, out_dtype)
        expected = on_host(cuda, a) @ on_host(cuda, b) + (on_host(cuda, out) if add else 0)
        assert cuda.matmul(a, b, out=out, add=add) is out
        np.testing.assert_allclose(on_host(cuda, out), expected, rtol=limit, atol=max(limit, 1e-3))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 4, 3), (3, 5, 1, 3), (2, 4, 3, 1), (3, 4, 2, 5)], ids=str)
@pytest.mark.parametrize("dtype, out_dtype", [("float32",) * 2, ("float64",) * 2, ("float16", "float32")])
def test_cublas_is_asked_for_products_of_heads(cuda, shape, dtype, out_dtype):
    """Each head's part of the rows of h, times its W^T, into its part of the rows of the result."""
    heads, rows, columns, depth = shape
    rng = np.random.default_rng(0)

    def parts(width, kind):
        return cuda.asarray(rng.standard_normal((rows, heads, width)).astype(kind)).transpose(1, 0, 2)

    for add in (False, True):
        a, out = parts(depth, dtype), parts(columns, out_dtype)
        b = cuda.asarray(rng.standard_normal((heads, columns, depth)).astype(dtype)).transpose(0, 2, 1)
        expected = on_host(cuda, a) @ on_host(cuda, b) + (on_host(cuda, out) if add else 0)
        assert cuda.matmul(a, b, out=out, add=add) is out
        np.testing.assert_allclose(on_host(cuda, out), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_float32_is_multiplied_in_tf32_where_that_was_asked_for(monkeypatch, dtype):
    for asked, variable, expected in ((True, "0", True), (None, "1", True), (False, "1", False), (None, "0", False)):
        monkeypatch.setenv("GPU_LSTM_TF32", variable)
        backend = CupyBackend(tf32=asked)
        assert backend.tf32 == expected == ("float32 products" in backend.describe())
        a = backend.asarray(np.full((16, 16), 1 + 2**-9 + 2**-12).astype(dtype))  # TF32 keeps ten bits
        one = backend.asarray(np.eye(16).astype(dtype))
        both = backend.xp.stack([a, a]), backend.xp.stack([one, one])
        rounded = [
            not np.array_equal(backend.to_numpy(backend.matmul(x, y, out=x.copy())), backend.to_numpy(x))
            for x, y in ((a, one), both)
        ]
        assert rounded == [expected and dtype == "float32"] * 2
    monkeypatch.delenv("GPU_LSTM_TF32")
    assert not CupyBackend().tf32


def test_what_cublas_has_no_form_for():
    cublas = types.SimpleNamespace(CUBLAS_OP_N=0, CUBLAS_OP_T=1)
    assert form(np.zeros((6, 6), np.float32)[::2, ::2], cublas) is None
    assert form(np.zeros((2, 2, 2), np.float32), cublas) is None
    assert form(np.zeros((4, 6), np.float32)[:, :3], cublas) == (6, 0)


def test_what_cublas_has_no_form_for_goes_another_way(cuda):
    a, out = cuda.xp.ones((6, 6), dtype=np.float32), cuda.xp.ones((3, 3), dtype=np.float32)
    cuda.matmul(a[::2, ::2], a[:3, :3], out=out, add=True)
    np.testing.assert_array_equal(cuda.to_numpy(out), 4)
    several = cuda.xp.ones((2, 3, 3), dtype=np.float32)
    cuda.matmul(cuda.xp.ones((2, 6, 6), dtype=np.float32)[:, ::2, ::2], several, out=several, add=True)
    np.testing.assert_array_equal(cuda.to_numpy(several), 4)


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
def test_a_kernel_that_cannot_be_compiled_is_one_line_with_the_cure(error, message):
    said = str(not_compiled(catalogue.kernel("check_range"), error))
    assert re.search(message, said)
    assert "\n" not in said


@pytest.mark.gpu
def test_a_mistake_of_the_compiler_s_input_is_told_in_its_words():
    with pytest.raises(BackendError, match=r"check_range can't be compiled: .*error.*; tier reference runs without"):
        Gpu(change=("__global__", "__globule__")).kernel(catalogue.kernel("check_range"))


@pytest.mark.gpu
def test_a_kernel_is_compiled_once():
    backend, kernel = CupyBackend(), catalogue.kernel("mean_loss", "float32")
    assert backend.kernel(kernel) is backend.kernel(kernel)


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


@pytest.mark.gpu
@pytest.mark.parametrize("slow", [True, False])
def test_whoever_waits_for_a_compiler_is_told_so(monkeypatch, slow):
    backend, heard, messages = CupyBackend(), threading.Event(), []
    monkeypatch.setattr(ahead, "PATIENCE", 0 if slow else 1000)
    monkeypatch.setattr(Slow, "said", heard if slow else None)
    monkeypatch.setattr(backend.xp, "RawModule", Slow)

    class Log:
        def info(self, message):
            messages.append(message)
            heard.set()

    monkeypatch.setattr(ahead, "_log", Log())
    for _ in range(2):
        backend.kernel(catalogue.kernel("mean_loss", "float32"))
    assert messages == ["compiling mean_loss<float> for sm_90, once"] * slow


def test_a_command_prints_what_the_package_logs_and_nobody_else_does(capsys, monkeypatch):
    monkeypatch.setattr(cli, "command", lambda arguments: ahead._log.info("compiling"))
    for _ in range(2):
        cli.main([])
    assert capsys.readouterr().err == "compiling\n" * 2
    ahead._log.info("compiling")
    assert capsys.readouterr().err == ""


@pytest.mark.gpu
def test_kernels_are_compiled_ahead_and_those_that_fail_stop_none(capsys, monkeypatch):
    monkeypatch.setattr(CupyBackend().xp, "RawModule", Slow)
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

    def __init__(self, values, ways):
        self.values, self.ndim = values, values.ndim
        if "dlpack" in ways:
            self.__dlpack_device__ = values.__dlpack_device__
        if "interface" in ways:
            self.__cuda_array_interface__ = values.__cuda_array_interface__

    def __dlpack__(self, **how):
        return self.values.__dlpack__(**how)


@pytest.mark.parametrize("ways", ["dlpack", "interface", "dlpack interface"])
def test_memory_on_the_device_is_taken_as_it_is(cuda, ways):
    values = cuda.asarray(np.random.default_rng(0).standard_normal((4, 2, 3), np.float32))
    taken = cuda.require("x", Foreign(values, ways))
    assert type(taken) is cuda.xp.ndarray
    assert taken.data.ptr == values.data.ptr
    lstm = LSTM(3, 8, backend=cuda)
    y, _, tape = lstm.forward(Foreign(values, ways))
    np.testing.assert_array_equal(cuda.to_numpy(y), cuda.to_numpy(lstm.forward(values)[0]))
    assert lstm.backward(tape, Foreign(cuda.xp.ones((4, 2, 8), np.float32), ways))[0].shape == values.shape


def test_memory_elsewhere_is_refused_by_name(cuda):
    with pytest.raises(InputError, match="x is a numpy.ndarray; expected an array of backend cupy:0"):
        cuda.require("x", np.ones(3, np.float32))
    with pytest.raises(InputError, match="x is a .*OnDevice on CUDA device 1; expected one of backend cupy:0"):
        cuda.require("x", OnDevice(1))
