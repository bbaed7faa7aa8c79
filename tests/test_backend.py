"""Choosing a backend, its few operations, the plan of tiers."""

import inspect
import sys
import types

import numpy as np
import pytest

from gpu_lstm import BackendError, InputError, ops
from gpu_lstm.backend import VARIABLE, Backend, CupyBackend, NumpyBackend, choose, into
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.recurrence import make_plan
from tests.gpu import HostBackend
from tests.support import NUMPY, STRICT, StrictBackend


@pytest.fixture
def without_cupy(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.fixture
def without_driver(monkeypatch):
    """A CuPy whose runtime answers as it does where there is no driver."""
    monkeypatch.delenv(VARIABLE, raising=False)
    runtime = types.SimpleNamespace(CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}))

    def count():
        raise runtime.CUDARuntimeError("cudaErrorInsufficientDriver")

    runtime.getDeviceCount = count
    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", cupy)


def test_auto_says_why_it_fell_back(without_cupy):
    assert choose("auto").why == choose().why == "numpy (no CuPy)"


def test_auto_says_that_the_driver_is_missing(without_driver):
    assert choose().why == "numpy (CuPy found, no NVIDIA driver)"


@pytest.mark.parametrize("name", ["cupy", "cupy:1"])
def test_a_named_gpu_that_is_not_there_is_an_error(without_cupy, name):
    with pytest.raises(BackendError, match=r'pip install "gpu-lstm\[cuda13\]"'):
        choose(name)


def test_a_named_gpu_without_driver_is_an_error(without_driver):
    with pytest.raises(BackendError, match="no usable NVIDIA driver .* install the driver"):
        choose("cupy")


def test_the_environment_variable_names_the_backend(without_cupy, monkeypatch):
    monkeypatch.setenv(VARIABLE, "numpy")
    assert choose().why == "numpy (chosen by name)"
    monkeypatch.setenv(VARIABLE, "cupy")
    with pytest.raises(BackendError):
        choose()
    assert choose("numpy").name == "numpy"
    monkeypatch.setenv(VARIABLE, "tpu")
    with pytest.raises(InputError, match=f"environment variable {VARIABLE} is 'tpu'"):
        choose()


@pytest.mark.parametrize("name", ["", "torch", "cupy:", "cupy:x", "cupy:-1", "numpy:0"])
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError, match="backend is .*; expected auto, numpy, cupy or cupy:N"):
        choose(name)


def test_a_backend_is_taken_as_it_is():
    assert choose(NUMPY) is NUMPY


@pytest.mark.parametrize("kind", [NumpyBackend, CupyBackend, CudaBackend, HostBackend, StrictBackend])
def test_backends_have_the_methods_and_signatures_of_the_protocol(kind):
    public = {name for name, value in vars(Backend).items() if callable(value) and not name.startswith("_")}
    assert 10 <= len(public) <= 12
    for name in public:
        ours, theirs = (inspect.signature(getattr(of, name)).parameters.values() for of in (kind, Backend))
        assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs], name
    more = {name for name in dir(kind) if callable(getattr(kind, name)) and not hasattr(Backend, name)}
    of_cuda = {"kernel", "bounds"} if issubclass(kind, CudaBackend) else set()
    assert {name for name in more if not name.startswith("_")} == of_cuda


@pytest.mark.parametrize("kind", [ops.Cpu, ops.Cuda])
def test_operations_have_the_signatures_of_those_on_arrays(kind):
    public = {name for name, value in vars(ops.Arrays).items() if callable(value) and not name.startswith("_")}
    assert public == {name for name in dir(kind) if callable(getattr(kind, name)) and not name.startswith("_")}
    for name in public:
        ours, theirs = (inspect.signature(getattr(of, name)).parameters.values() for of in (kind, ops.Arrays))
        assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs], name


def test_operations_are_those_of_the_backend_s_kind_and_made_once():
    for backend, kind in ((NUMPY, ops.Cpu), (STRICT, ops.Arrays), (HostBackend(), ops.Cuda)):
        assert type(ops.of(backend)) is kind
        assert ops.of(backend) is ops.of(backend)
        assert ops.of(backend).backend is backend


@pytest.mark.parametrize("which", [NUMPY, STRICT], ids=["numpy", "generic"])
def test_scatter_add_sums_repeated_rows(which):
    rng = np.random.default_rng(0)
    index, rows = rng.integers(0, 5, 40), rng.standard_normal((40, 3))
    expected = np.ones((7, 3))
    np.add.at(expected, index, rows)
    target = which.asarray(np.ones((7, 3)))
    ops.of(which).scatter_add(target, which.asarray(index), which.asarray(rows))
    np.testing.assert_allclose(which.to_numpy(target), expected, rtol=1e-13)


def test_operations(backend):
    xp = backend.xp
    a = backend.asarray([[1.0, 2.0], [3.0, 4.0]], "float32")
    out = xp.empty_like(a)
    assert backend.to_numpy(backend.matmul(a, a, out=out)).tolist() == [[7, 10], [15, 22]]
    assert backend.to_numpy(into(backend, xp.multiply, a, a, out=out)).tolist() == [[1, 4], [9, 16]]
    np.testing.assert_allclose(
        backend.to_numpy(into(backend, xp.tanh, a, out=out)), np.tanh([[1, 2], [3, 4]]), rtol=1e-6
    )
    target = xp.zeros((4, 2), dtype=xp.float32)
    ops.of(backend).scatter_add(target, backend.asarray([3, 3]), a)
    assert backend.to_numpy(target)[3].tolist() == [4, 6]
    ones = backend.asarray(np.ones((10, 100)), "float32")
    dropped, again = ops.of(backend).dropout(ones, 0.25, (1, 2))
    assert set(np.unique(backend.to_numpy(dropped))) == {0, np.float32(4 / 3)}
    assert 0.2 < np.mean(backend.to_numpy(dropped) == 0) < 0.3
    np.testing.assert_array_equal(backend.to_numpy(again(ones)), backend.to_numpy(dropped))
    np.testing.assert_array_equal(
        backend.to_numpy(ops.of(backend).dropout(ones, 0.25, (1, 2))[0]), backend.to_numpy(dropped)
    )
    assert np.any(backend.to_numpy(ops.of(backend).dropout(ones, 0.25, (1, 3))[0] != dropped))
    assert backend.read() == ()
    assert backend.describe()["device"]


@pytest.mark.parametrize("which", [NUMPY, STRICT], ids=["numpy", "generic"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (2, 0)])
def test_arrays_keep_shape_and_type_there_and_back(which, shape):
    for dtype in ("float32", "int64", "bool"):
        there = which.asarray(np.ones(shape, dtype))
        assert there.dtype == which.dtype(dtype)
        assert there.shape == shape
        np.testing.assert_array_equal(which.to_numpy(there), np.ones(shape, dtype))
    assert which.asarray(there, "float32").dtype == which.dtype("float32")


@pytest.mark.parametrize(
    "x, shape, dtype, message",
    [
        ([1.0], ("N",), None, r"w is a builtins.list; expected an array of backend numpy \(make it one with"),
        (np.zeros((2, 3)), ("N", "D=4"), None, r"w has shape \(2, 3\); expected \(N, D=4\)"),
        (np.zeros((2, 3)), (2,), None, r"w has shape \(2, 3\); expected \(2,\)"),
        (np.zeros(2), ("N",), "float32", "w has dtype float64; expected float32"),
    ],
)
def test_require_says_what_is_wrong(x, shape, dtype, message):
    with pytest.raises(InputError, match=message):
        NUMPY.require("w", x, shape, dtype)


def test_require_passes_what_fits():
    x = np.zeros((2, 3), "float32")
    assert NUMPY.require("w", x, ("N", "D=3"), "float32") is x


@pytest.mark.parametrize("which", [NUMPY, STRICT], ids=["numpy", "generic"])
def test_scatter_add_takes_an_index_too_narrow_to_count_the_rows(which):
    target = which.asarray(np.zeros((300, 1)))
    ops.of(which).scatter_add(target, which.asarray(np.array([5, 255], "uint8")), which.asarray(np.ones((2, 1))))
    assert np.flatnonzero(which.to_numpy(target)).tolist() == [5, 255]


def test_host_copies_are_copies():
    x = np.zeros(3)
    NUMPY.to_numpy(x)[0] = 1
    assert x[0] == 0


@pytest.mark.gpu
def test_host_arrays_are_refused_on_the_gpu(backend):
    if backend.name != "numpy":
        with pytest.raises(InputError, match="x is a numpy.ndarray; expected an array of backend cupy"):
            backend.require("x", np.zeros((2, 2)), ("T", "B"))


def test_the_plan_says_why():
    plan = make_plan(STRICT)
    assert plan.tier == "reference"
    assert "reference: chosen, the fastest that runs here" in plan.why()
    assert "sequence: can't run: backend strict has no kernels" in plan.why()
    assert "asked for by name" in make_plan(NUMPY, "reference").why()


def test_a_tier_that_the_backend_lacks_is_an_error():
    with pytest.raises(BackendError, match="tier sequence can't run on backend strict"):
        make_plan(STRICT, "sequence")
    with pytest.raises(InputError, match="tier is 'fast'; expected auto"):
        make_plan(NUMPY, "fast")


def test_places_outside_an_array_are_refused(backend):
    def array(*shape):
        return backend.asarray(np.ones(shape, np.float32))

    def places(*numbers):
        return backend.asarray(np.array(numbers))

    for call, message in (
        (lambda: ops.of(backend).scatter_add(array(3, 2), places(0, 3), array(2, 2)), r"index has values 0\.\.3"),
        (lambda: ops.of(backend).scatter_add(array(3, 2), places(0, -1), array(2, 2)), r"index has values -1\.\.0"),
        (lambda: ops.of(backend).take_rows(array(3, 2), places(-1)), r"index has values -1\.\.-1"),
        (lambda: ops.of(backend).softmax_cross_entropy(array(2, 3), places(0, 3), None), r"targets has values 0\.\.3"),
        (
            lambda: ops.of(backend).softmax_cross_entropy(array(2, 3), places(0, -1), None),
            r"targets has values -1\.\.0",
        ),
        (lambda: ops.of(backend).softmax_cross_entropy(array(2, 3), places(0, -1), -2), r"targets has values -1\.\.0"),
    ):
        if backend.kernels == "cpu":  # elsewhere the kernels pass them over, and whoever reads a loss is told
            with pytest.raises(InputError, match=message):
                call()
    for call, message in (
        (
            lambda: ops.of(backend).scatter_add(array(3, 2), array(2), array(2, 2)),
            "index has dtype float32; expected integers",
        ),
        (lambda: ops.of(backend).scatter_add(array(3, 2), places(0), array(2, 2)), r"rows has shape \(2, 2\)"),
        (lambda: ops.of(backend).scatter_add(array(3, 2), places(0), array(1, 3)), r"rows has shape \(1, 3\)"),
        (lambda: ops.of(backend).take_rows(array(3), places(0)), r"table has shape \(3,\)"),
        (lambda: ops.of(backend).softmax_cross_entropy(array(2, 3), places(0), None), r"targets has shape \(1,\)"),
        (lambda: ops.of(backend).softmax_cross_entropy(array(2, 3), array(2), None), "targets has dtype float32"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_what_is_read_only_is_not_written_to():
    target, logits = np.ones((3, 2), np.float32), np.zeros((2, 3), np.float32)
    for array in (target, logits):
        array.flags.writeable = False
    with pytest.raises(InputError, match="target is read-only"):
        ops.of(NUMPY).scatter_add(target, np.array([0]), np.ones((1, 2), np.float32))
    with pytest.raises(InputError, match="logits is read-only"):
        ops.of(NUMPY).softmax_cross_entropy(logits, np.array([0, 1]), None)
    np.testing.assert_array_equal(target, np.ones((3, 2)))
    np.testing.assert_array_equal(logits, np.zeros((2, 3)))
