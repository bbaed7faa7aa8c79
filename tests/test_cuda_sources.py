"""Finding, naming and compiling the CUDA sources; the cell's arithmetic as a GPU thread does it; planted mistakes."""

import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from gpu_lstm import BackendError
from gpu_lstm.native import catalogue, kernels, sources
from tests.device.support import alone
from tests.gpu import Gpu, on_the_machine
from tests.nvrtc import matrix

ROOT = Path(__file__).resolve().parents[1]

# -- sources ----------------------------------------------------------------------------------------------------------


def test_headers_are_put_in_place_once_with_their_names():
    text = sources.read_source("gates.cu")
    assert "#include" not in text
    assert text.count("struct ArithmeticOf {") == text.count("struct Constants;") == 1
    assert text.startswith('#line 1 "cuda/gates.cu"\n')
    lines, place = {}, ("", 0)
    for line in text.splitlines():
        if line.startswith("#line"):
            _, number, name = line.split()
            place = name.strip('"'), int(number) - 1
        else:
            place = place[0], place[1] + 1
            lines[place] = line
    for (name, number), line in lines.items():
        original = (ROOT / "kernels" / name).read_text().splitlines()[number - 1]
        assert line == original or original.startswith("#include"), (name, number)


def test_an_instance_asks_for_the_headers_of_its_types():
    assert catalogue.kernel("gates_forward", "float16", 8, True, False).source.startswith("#include <cuda_fp16.h>\n")
    assert catalogue.kernel("gates_forward", "bfloat16", 1, True, False).source.startswith("#include <cuda_bf16.h>\n")
    assert "#include" not in catalogue.kernel("gates_forward", "float32", 4, True, False).source


def test_kernels_have_names_that_cpp_understands():
    assert (
        catalogue.kernel("gates_backward", "bfloat16", 8, True).expression == "gates_backward<__nv_bfloat16, 8, true>"
    )
    assert catalogue.kernel("check_range").expression == "check_range"
    names = [kernel.expression for kernel in catalogue.every_kernel()]
    assert len(names) == len(set(names))


def test_structs_that_a_launch_could_have_besides_are_null():
    run = np.zeros(3), np.int64(5), (None, np.bool_(True))
    null = None, np.int64(0), (None, np.bool_(False))
    several = kernels.Several([run, run], 4)
    assert several == (run, run, null, null)
    given, expected = (kernels.passed((runs, np.uint32(7))) for runs in (several, (run, run, null, null)))
    assert given.dtype == expected.dtype and given.tolist() == expected.tolist()
    assert given.tolist()[0][0] == (run[0].ctypes.data, 5, (0, True))


def test_lines_are_compiled_in_where_asked_for(monkeypatch):
    assert kernels.flags() == kernels.FLAGS
    for value, asked in (("0", False), ("", False), ("1", True)):
        monkeypatch.setenv(kernels.LINES, value)
        assert ("-lineinfo" in kernels.flags()) == asked
    monkeypatch.setenv(kernels.WATCHDOG, "5")
    assert kernels.flags()[len(kernels.FLAGS) :] == ("-lineinfo", "-DGPU_LSTM_WATCHDOG=5")


def test_a_missing_source_is_one_message():
    with pytest.raises(BackendError, match=r"CUDA source cuda/none.cu is missing: .*; reinstall gpu_lstm"):
        sources.read_source("none.cu")


def test_a_bare_checkout_finds_its_sources(tmp_path):
    """Without an installed package, as with PYTHONPATH only."""
    script = (
        "import sys; sys.modules['gpu_lstm.kernels'] = None\n"
        "from gpu_lstm.native import sources; print(len(sources.read_source('gates.cu')))\n"
        "assert not any(name.split('.')[0] == 'cupy' for name in sys.modules)"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(sources.read_source("gates.cu"))


def test_the_wheel_holds_the_sources():
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["gpu_lstm.kernels"]
    for path in (ROOT / "kernels").rglob("*"):
        if path.suffix in (".cu", ".cuh", ".h"):
            place = path.relative_to(ROOT / "kernels")
            assert any(place.match(pattern) for pattern in patterns), place


def test_the_table_of_resources_is_of_these_sources():
    recorded = matrix.TABLE.read_text()
    assert f"sources {matrix.digest()}\n" in recorded, "write it again: python -m tests.nvrtc.matrix --write"
    rows = [line.split("`")[1] for line in recorded.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(kernel.expression for kernel in catalogue.every_kernel())


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_nvcc_compiles_the_cell(tmp_path):
    instance = (
        "template __global__ void gates_forward<float, 4, true, true>(float*, float*, float*, const int64*, int64, "
        "int64, int64, int64, int64, unsigned, unsigned);\n"
    )
    source = tmp_path / "gates.cu"
    source.write_text(sources.read_source("gates.cu") + instance)
    command = ["nvcc", "-std=c++17", "-arch=sm_80", "-ptx", "-Werror", "all-warnings", str(source), "-o", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- the cell's arithmetic --------------------------------------------------------------------------------------------

ACTIVATE = """
#include "common.cuh"
#include "cell.cuh"
template <typename T>
__global__ void activate(const Arithmetic<T>* x, Arithmetic<T>* y, int64 count, int tanh_instead) {
  for (int64 n = blockIdx.x * blockDim.x + threadIdx.x; n < count; n += gridDim.x * blockDim.x)
    y[n] = tanh_instead ? tanh_of<T>(x[n]) : sigmoid<T>(x[n]);
}
"""


@pytest.fixture
def activation(cuda):
    """y of x by the cell's own function."""
    names = ["activate<float>", "activate<double>", "activate<Brief>"]
    source = sources.expand(ACTIVATE, PurePosixPath("cuda", "activate.cu"))
    module = cuda.xp.RawModule(code=source, options=kernels.flags(), name_expressions=names)

    def of(name, x, brief=False):
        here, y = cuda.asarray(x), cuda.asarray(np.empty_like(x))
        function = module.get_function(names[2 if brief else x.itemsize == 8])
        function((1,), (256,), (here, y, np.int64(x.size), np.int32(name == "tanh")))
        return cuda.to_numpy(y)

    return of


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_are_within_4_ulp_over_their_range(activation, name, dtype):
    limit = 86 if dtype == "float32" else 700
    grid = np.concatenate([np.linspace(-limit, limit, 100_001), np.linspace(-1, 1, 50_001), np.logspace(-30, 0, 5001)])
    x = grid.astype(dtype)
    wide = x.astype(np.longdouble)
    exact = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
    spacing = np.spacing(np.abs(exact.astype(dtype))).astype(np.longdouble)
    assert float(np.max(np.abs(activation(name, x).astype(np.longdouble) - exact) / spacing)) < 4


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_activations_for_16_bits_are_nearer_than_16_bits_are(activation, name):
    """With the special function units' errors as large as CUDA's manual allows."""
    x = np.concatenate([np.linspace(-86, 86, 100_000), np.linspace(-1, 1, 50_000), np.logspace(-30, 0, 5001)])
    x = x.astype(np.float32)
    wide = x.astype(np.float64)
    exact = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
    error = np.abs(activation(name, x, brief=True) - exact) / np.abs(exact)
    assert error[np.abs(x) < 10].max() < 3e-6
    assert error.max() < 2e-5
    extremes = np.array([np.inf, -np.inf, 1e30, -1e30, 0, np.nan], dtype=np.float32)
    ends = [1, -1, 1, -1, 0] if name == "tanh" else [1, 0, 1, 0, 0.5]
    np.testing.assert_allclose(activation(name, extremes, brief=True), [*ends, np.nan], atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_of_extremes(activation, dtype):
    huge = np.finfo(dtype).max
    x = np.array([0.0, -0.0, 1e4, -1e4, huge, -huge, np.inf, -np.inf, np.nan], dtype=dtype)
    tanh, sigmoid = activation("tanh", x), activation("sigmoid", x)
    np.testing.assert_array_equal(tanh[:8], [0, 0, 1, -1, 1, -1, 1, -1])
    np.testing.assert_allclose(sigmoid[:8], [0.5, 0.5, 1, 0, 1, 0, 1, 0], atol=1e-37)
    # Flushed to zero they would lose a gradient for good: even the smallest is a normal number.
    assert sigmoid[:8].min() >= np.finfo(dtype).tiny
    assert np.isnan(tanh[8])
    assert np.isnan(sigmoid[8])


# -- planted mistakes -------------------------------------------------------------------------------------------------


def mean_loss_arguments():
    return (1,), (96,), (np.ones(96, np.float32), None, np.int64(96), np.zeros((), np.float32))


def cross_entropy_arguments():
    logits = np.random.default_rng(0).standard_normal((1, 70)).astype(np.float32)
    numbers = np.int32(0), np.int64(0), np.int64(1), np.int64(70)
    return (1,), (96,), (logits, np.array([69]), np.zeros(1, np.float32), None, *numbers)


def take_rows_arguments():
    return (
        (1,),
        (32,),
        (np.ones((3, 4), np.float32), np.array([3]), np.ones((1, 4), np.float32), np.int64(3), np.int64(4)),
    )


def scatter_arguments():
    index, rows = np.zeros(300, np.int64), np.ones((300, 4), np.float32)
    sizes = np.int64(300), np.int64(1), np.int64(4)
    return (300, 1), (256,), (np.zeros((1, 4), np.float32), index, rows, *sizes)


def gates_arguments():
    arrays = np.ones((1, 1, 32), np.float32), np.zeros((2, 1, 8), np.float32), np.zeros((2, 1, 8), np.float32)
    slots = [np.int64(n) for n in (0, 0, 1, 0, 1)]
    return (1,), (32,), (*arrays, None, *slots, np.uint32(1), np.uint32(8))


MEAN, ROW, GATES = (
    catalogue.kernel("mean_loss", "float32"),
    catalogue.kernel("cross_entropy", "float32"),
    ("float32", 4, True, False),
)
MISTAKES = [
    (MEAN, "  value = parts[0];", "  value = parts[warp + 1];", mean_loss_arguments),
    (MEAN, "= value;\n  __syncthreads();", "= value;", mean_loss_arguments),
    (ROW, "  __syncthreads();  // x[target]", "  // x[target]", cross_entropy_arguments),
    (catalogue.kernel("take_rows", "float32"), "value < size ? value : size - 1", "value", take_rows_arguments),
    (
        catalogue.kernel("scatter_add", "float32", catalogue.SCATTER_WARPS),
        "= m;\n    __syncthreads();",
        "= m;",
        scatter_arguments,
    ),
    (catalogue.kernel("gates_forward", *GATES), "inside = b < batch;", "inside = true;", gates_arguments),
    (catalogue.kernel("gates_forward", *GATES), "(item - b * in_row) * N;", "item - b * in_row;", gates_arguments),
]


@on_the_machine
@pytest.mark.parametrize("kernel, right, wrong, arguments", MISTAKES)
def test_a_mistake_in_one_of_these_kernels_is_found(kernel, right, wrong, arguments):
    def results(backend):
        grid, block, args = arguments()
        given = [alone(arg) if isinstance(arg, np.ndarray) else arg for arg in args]
        backend.kernel(kernel)(grid, block, given)
        return [backend.to_numpy(arg) for arg in given if isinstance(arg, backend.xp.ndarray)]

    expected, broken = results(Gpu()), Gpu(memory=True, change=(right, wrong))
    for seed in range(8):
        for one, other in zip(results(Gpu(seed=seed, memory=True)), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises((RuntimeError, AssertionError)):
        for broken.seed in range(24):
            for one, other in zip(results(broken), expected, strict=True):
                np.testing.assert_array_equal(one, other)
