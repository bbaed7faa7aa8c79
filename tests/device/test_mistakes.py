"""Mistakes of a program, planted: each is found and named, and the right program isn't."""

import threading

import numpy as np
import pytest

from tests.device.support import Seed, alone, module_of, needs_machine

pytestmark = needs_machine

KERNELS = r"""
extern "C" __global__ void add(float* x, int n, int first) {
  int i = first + blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += 1.0f;
}
extern "C" __global__ void four(float* x, int first) {
  float4 v = *reinterpret_cast<float4*>(x + first);
  x[first] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void shared(float* x, int beyond) {
  extern __shared__ float memory[];
  memory[threadIdx.x + beyond] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = memory[blockDim.x - 1 - threadIdx.x + beyond];
}
// Neighbours of a warp, by shared memory.
template <bool Waits> __global__ void neighbours(int* x) {
  __shared__ int shown[32];
  shown[threadIdx.x] = x[threadIdx.x];
  if (Waits) __syncwarp();
  int v = reinterpret_cast<volatile int*>(shown)[(threadIdx.x + 1) % 32];
  if (Waits) __syncwarp();
  x[threadIdx.x] = v;
}
extern "C" __global__ void half_a_barrier(int* x) {
  if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;");
  x[threadIdx.x] = 1;
}
// Blocks wait for each other; the counter never comes that far where one is missing.
extern "C" __global__ void meet(unsigned* arrived, unsigned expected, float* x) {
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" :: "l"(arrived) : "memory");
    unsigned n;
    do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(n) : "l"(arrived) : "memory"); while (n < expected);
  }
  __syncthreads();
  x[blockIdx.x] = x[(blockIdx.x + 1) % gridDim.x] < 0 ? -1 : 1;
}
extern "C" __global__ void unknown(unsigned* x) {
  unsigned v;
  asm volatile("lop3.b32 %0, %1, %1, %1, 0x96;" : "=r"(v) : "r"(*x));
  *x = v;
}
"""


@pytest.fixture(scope="module")
def kernel():
    import cupy

    names = ["neighbours<true>", "neighbours<false>"]
    plain = KERNELS.replace(KERNELS[KERNELS.index('extern "C" __global__ void unknown') :], "")
    module = cupy.RawModule(code=plain, options=("-std=c++17",), name_expressions=names, enable_cooperative_groups=True)
    return module.get_function


def raises(text):
    from cupy_backends.cuda.api.driver import CUDADriverError

    return pytest.raises(CUDADriverError, match=text)


def test_reads_and_writes_out_of_bounds(kernel):
    x = alone(np.zeros(10, np.float32))
    kernel("add")((1,), (32,), (x, np.int32(10), np.int32(0)))
    np.testing.assert_array_equal(x.get(), np.ones(10))
    with raises("illegal read of 4 bytes, where nothing is allocated: ld.global.f32"):
        kernel("add")((1,), (32,), (x, np.int32(11), np.int32(0)))
    with raises("illegal read of 16 bytes, 32 into memory of 40: ld.global.v4"):
        kernel("four")((1,), (1,), (x, np.int32(8)))
    with raises("illegal read of 4 bytes"):
        kernel("add")((1,), (1,), (x, np.int32(1), np.int32(-200000000)))
    pointer = x.data.ptr
    del x
    with raises("illegal read of 4 bytes, where nothing is allocated"):
        kernel("add")((1,), (1,), (np.uint64(pointer), np.int32(1), np.int32(0)))


def test_misaligned_addresses(kernel):
    x = alone(np.arange(8, dtype=np.float32))
    kernel("four")((1,), (1,), (x, np.int32(4)))
    assert x.get()[4] == 22
    with raises("misaligned address: ld.global.v4"):
        kernel("four")((1,), (1,), (x, np.int32(2)))


def test_shared_memory_out_of_bounds(kernel):
    x = alone(np.arange(64, dtype=np.float32))
    kernel("shared")((1,), (64,), (x, np.int32(0)), shared_mem=256)
    np.testing.assert_array_equal(x.get(), np.arange(64)[::-1])
    with raises("shared memory out of bounds, 256 of 256"):
        kernel("shared")((1,), (64,), (x, np.int32(1)), shared_mem=256)


def test_a_barrier_of_a_warp_that_is_missing_shows_in_some_order(kernel):
    def wrong(name):
        for seed in range(8):
            x = alone(np.arange(32, dtype=np.int32))
            with Seed(seed):
                kernel(name)((1,), (32,), (x,))
            if not np.array_equal(x.get(), (np.arange(32) + 1) % 32):
                return True
        return False

    assert wrong("neighbours<false>")
    assert not wrong("neighbours<true>")


def test_threads_that_wait_for_ever(kernel):
    x = alone(np.zeros(64, np.int32))
    with raises("deadlock in half_a_barrier"):
        kernel("half_a_barrier")((1,), (64,), (x,))
    arrived, y = alone(np.zeros(1, np.uint32)), alone(np.zeros(3, np.float32))
    kernel("meet")((3,), (32,), (arrived, np.uint32(3), y))
    np.testing.assert_array_equal(y.get(), np.ones(3))
    with raises("no thread writes anything any more in meet"):
        kernel("meet")((3,), (32,), (arrived, np.uint32(7), y))


def test_ptx_that_is_not_known_is_named():
    with raises("PTX not understood: lop3.b32"):
        module_of(KERNELS[KERNELS.index('extern "C" __global__ void unknown') :]).get_function("unknown")


def test_memory_and_kernels_of_another_device(kernel):
    import cupy

    x = alone(np.zeros(4, np.float32))
    with cupy.cuda.Device(1):
        other = cupy.RawModule(code=KERNELS[: KERNELS.index('extern "C" __global__ void four')]).get_function("add")
        with raises("illegal read of 4 bytes of device 0 on device 1"):
            other((1,), (4,), (np.uint64(x.data.ptr), np.int32(4), np.int32(0)))


def test_streams_that_are_recorded():
    import cupy

    stream, other = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    x = cupy.zeros(4)
    with stream:
        stream.begin_capture()
        x += 1
        other.wait_event(stream.record())
        with other:
            x *= 2
        stream.wait_event(other.record())
        graph = stream.end_capture()
    assert x.get().tolist() == [0.0] * 4, "nothing is done while it is recorded"
    graph.launch(stream)
    graph.launch(stream)
    assert x.get().tolist() == [6.0] * 4
    with stream:
        stream.begin_capture()
        other.wait_event(stream.record())
        with other:
            x *= 2
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="was not waited for"):
            stream.end_capture()


def test_a_thread_begins_with_the_first_device():
    import cupy

    seen = []
    with cupy.cuda.Device(1):
        thread = threading.Thread(target=lambda: seen.append(cupy.cuda.runtime.getDevice()))
        thread.start()
        thread.join()
        assert cupy.cuda.runtime.getDevice() == 1
    assert seen == [0]
