"""What surrounds a launch: building, arguments, arrays, orders, and mistakes that no planted kernel covers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from . import EmulationError, build
from .support import module, needs_compiler

pytestmark = needs_compiler

SOURCE = """
#line 100 "launch.cu"
extern "C" __global__ void add(float* x, const float* y, int n, float a) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += a * y[i];
}
extern "C" __global__ void order(int* next, int* first) { first[atomicAdd(next, 1)] = blockIdx.x; }
extern "C" __global__ void store(float* x, long long at) { x[at] = 1.0f; }
extern "C" __global__ void wait_for_all(unsigned* arrived) {
  atomicAdd(arrived, 1u);
  while (*(volatile unsigned*)arrived < gridDim.x) {
  }
}
extern "C" __global__ void never_ends(unsigned* x) {
  while (true) atomicAdd(x, 1u);
}
extern "C" __global__ void deadlock(float* x) {
  if (threadIdx.x < 16) __syncthreads();
  else __syncwarp();
  x[threadIdx.x] = 1.0f;
}
extern "C" __global__ void deep(int* x) {
  volatile int local[40000];
  for (int i = 39999; i >= 0; --i) local[i] = i;
  x[0] = local[5];
}
extern "C" __global__ void divide(int* x, int y) { x[0] = 7 / y; }
extern "C" __global__ void trap() { __trap(); }
extern "C" __global__ void asserts(int x) { assert(x == 5); }
extern "C" __global__ void much_shared(float* x) {
  extern __shared__ float memory[];
  memory[threadIdx.x] = 1.0f;
  x[threadIdx.x] = memory[threadIdx.x];
}
extern "C" __global__ void local_of_another(float** address, float* x) {
  float mine = 1.0f;
  if (threadIdx.x == 0) *address = &mine;
  __syncthreads();
  x[threadIdx.x] = **address;
  __syncthreads();
}
"""


@pytest.fixture(params=["fast", "check"])
def launch(request):
    return build(SOURCE, mode=request.param).launch


def vectors(n: int = 10) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n, dtype=np.float32), np.ones(n, np.float32)


# ---- arguments


def test_scalars_must_have_the_size_and_kind_of_the_parameter(launch):
    x, y = vectors()
    for wrong in (10, np.int64(10), np.float32(10), 10.0, None):
        with pytest.raises(
            EmulationError, match="add: launch: argument 2 has .* the kernel's parameter has 4 of kind 'i'"
        ):
            launch("add", (1,), (32,), (x, y, wrong, np.float32(2)))
    with pytest.raises(EmulationError, match="add: launch: 3 arguments for 4 parameters"):
        launch("add", (1,), (32,), (x, y, np.int32(10)))
    with pytest.raises(EmulationError, match="add: launch: argument 1 is a list"):
        launch("add", (1,), (32,), (x, [1.0], np.int32(10), np.float32(2)))


def test_names_and_sizes(launch):
    x, y = vectors()
    args = (x, y, np.int32(10), np.float32(2))
    with pytest.raises(EmulationError, match="subtract: launch: no such kernel; there are add, "):
        launch("subtract", (1,), (32,), args)
    with pytest.raises(EmulationError, match="add: launch: 1 blocks of 1025 threads"):
        launch("add", (1,), (1025,), args)
    with pytest.raises(EmulationError, match="add: launch: 0 blocks"):
        launch("add", (0,), (32,), args)
    with pytest.raises(EmulationError, match=r"add: launch: grid is \(1, 1, 1, 1\)"):
        launch("add", (1, 1, 1, 1), (32,), args)
    with pytest.raises(
        EmulationError, match="much_shared: launch: 232452 bytes of dynamic shared memory; expected at most 232448"
    ):
        launch("much_shared", (1,), (1,), (x,), shared_mem=227 * 1024 + 4)
    with pytest.raises(EmulationError, match=r"add: launch: a grid of \(1,65536,1\) blocks"):
        launch("add", (1, 65536), (1,), args)
    with pytest.raises(EmulationError, match="add: launch: resident is 0"):
        launch("add", (1,), (32,), args, resident=0)
    launch("much_shared", (1,), (10,), (x,), shared_mem=227 * 1024)
    assert (x == 1).all()


# ---- arrays


def test_arrays_must_be_contiguous(launch):
    x, y = vectors(20)
    with pytest.raises(EmulationError, match="add: launch: argument 1 is not C-contiguous"):
        launch("add", (1,), (32,), (x[:10], y[::2], np.int32(10), np.float32(2)))


def test_one_array_in_several_arguments(launch):
    x, _ = vectors()
    launch("add", (1,), (32,), (x, x, np.int32(10), np.float32(2)))
    np.testing.assert_array_equal(x, 3 * np.arange(10))


def test_parts_of_one_array(launch):
    whole = np.arange(20, dtype=np.float32)
    launch("add", (1,), (32,), (whole[:10], whole[10:], np.int32(10), np.float32(1)))
    np.testing.assert_array_equal(whole, np.r_[np.arange(10, 30, 2), np.arange(10, 20)])


def test_nothing_outside_of_an_array_is_written(launch):
    whole = np.zeros(20, np.float32)
    for at in (10, -1):
        with pytest.raises(
            EmulationError, match=f"store: out of bounds: .*byte {4 * at}.* of argument 0, which has 40"
        ):
            launch("store", (1,), (1,), (whole[5:15], np.int64(at)))
        assert not whole.any()


def test_far_away_and_null(launch):
    x = np.zeros(10, np.float32)
    with pytest.raises(EmulationError, match=r"store: out of bounds: .*launch\.cu:105"):
        launch("store", (1,), (1,), (x, np.int64(1 << 40)))
    with pytest.raises(EmulationError, match=r"store: null pointer: .*launch\.cu:105"):
        launch("store", (1,), (1,), (None, np.int64(0)))
    launch("add", (1,), (32,), (None, None, np.int32(0), np.float32(2)))


def test_empty_arrays(launch):
    empty = np.zeros(0, np.float32)
    launch("add", (1,), (32,), (empty, empty, np.int32(0), np.float32(2)))
    with pytest.raises(EmulationError, match="out of bounds"):
        launch("store", (1,), (1,), (empty, np.int64(0)))


def test_read_only_arrays_may_be_read(launch):
    x, y = vectors()
    y.flags.writeable = False
    launch("add", (1,), (32,), (x, y, np.int32(10), np.float32(2)))
    np.testing.assert_array_equal(x, np.arange(10) + 2)


def test_read_only_arrays_may_not_be_written(launch):
    x, y = vectors()
    x.flags.writeable = False
    with pytest.raises(EmulationError, match="add: read-only: something wrote to argument 0"):
        launch("add", (1,), (32,), (x, y, np.int32(10), np.float32(2)))


# ---- orders


def test_a_seed_is_an_order(launch):
    def order(seed: int) -> list[int]:
        first = np.zeros(64, np.int32)
        launch("order", (8,), (8,), (np.zeros(1, np.int32), first), seed=seed, resident=8)
        return first.tolist()

    orders = [order(seed) for seed in range(20)]
    assert orders == [order(seed) for seed in range(20)]
    assert len({tuple(o) for o in orders}) == 20


def test_blocks_one_after_the_other(launch):
    first = np.zeros(64, np.int32)
    launch("order", (8,), (8,), (np.zeros(1, np.int32), first), seed=1, resident=1)
    blocks = first.reshape(8, 8)
    assert (blocks == blocks[:, :1]).all()
    assert sorted(blocks[:, 0]) == list(range(8))


# ---- threads that don't end


def test_waiting_for_blocks_needs_a_cooperative_launch(launch):
    launch("wait_for_all", (8,), (1,), (np.zeros(1, np.uint32),), cooperative=True)
    with pytest.raises(EmulationError, match=r"hang: .*launch\.cu:108.*the launch is not cooperative"):
        launch("wait_for_all", (8,), (1,), (np.zeros(1, np.uint32),), step_limit=100_000)


def test_a_kernel_that_never_ends(launch):
    with pytest.raises(EmulationError, match="never_ends: hang: the launch doesn't end"):
        launch("never_ends", (1,), (1,), (np.zeros(1, np.uint32),), step_limit=10_000)


def test_deadlock(launch):
    with pytest.raises(EmulationError, match=r"divergent barrier|deadlock") as caught:
        launch("deadlock", (1,), (32,), (np.zeros(32, np.float32),))
    assert "launch.cu:115" in str(caught.value)


# ---- other mistakes


def test_too_many_local_variables(launch):
    with pytest.raises(EmulationError, match="deep: stack overflow: local variables take more than the 128 KB"):
        launch("deep", (1,), (1,), (np.zeros(1, np.int32),))


def test_division_by_zero(launch):
    with pytest.raises(EmulationError, match=r"divide: division by zero: .*launch\.cu:124"):
        launch("divide", (1,), (1,), (np.zeros(1, np.int32), np.int32(0)))


def test_trap(launch):
    with pytest.raises(EmulationError, match=r"trap: trap: .*launch\.cu:125"):
        launch("trap", (1,), (1,), ())


def test_assert(launch):
    launch("asserts", (1,), (1,), (np.int32(5),))
    with pytest.raises(EmulationError, match=r"asserts: assertion: x == 5 \[launch\.cu:126"):
        launch("asserts", (1,), (1,), (np.int32(6),))


def test_local_variables_of_another_thread():
    with pytest.raises(EmulationError, match="out of bounds: read of a local variable of another thread"):
        build(SOURCE, mode="check").launch("local_of_another", (1,), (2,), (np.zeros(1, np.uint64), vectors()[0]))


# ---- building


def test_text_that_does_not_compile():
    with pytest.raises(EmulationError, match=r"broken\.cu:7:.*error"):
        build('#line 7 "broken.cu"\nextern "C" __global__ void k() { undeclared(); }')


def test_definitions_and_the_macro_of_the_emulator():
    source = """
    #ifndef GPU_LSTM_EMULATOR
    #error
    #endif
    extern "C" __global__ void k(int* x) { *x = VALUE; }
    #ifdef OTHER
    extern "C" __global__ void other(int* x) { *x = 0; }
    #endif
    """
    x = np.zeros(1, np.int32)
    built = build(source, options=["-DVALUE=42"])
    assert built.kernels == ("k",)
    built.launch("k", (1,), (1,), (x,))
    assert x[0] == 42
    assert build(source, options=["-DVALUE=42", "-DOTHER"]).kernels == ("k", "other")


@pytest.mark.slow
def test_two_processes_may_build_at_once(tmp_path):
    root = Path(__file__).parents[2]
    code = (
        "import numpy as np; from tests.emulator import build; x = np.zeros(1, np.int32);"
        "build('extern \"C\" __global__ void k(int* x) { *x = 5; }').launch('k', (1,), (1,), (x,)); print(x[0])"
    )
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in processes] == ["5\n"] * 2


def test_built_once():
    assert module("cluster.cu", "fast") is module("cluster.cu", "fast")
