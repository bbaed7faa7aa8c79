// Keywords and built-in variables.
#pragma once

#define __global__ __attribute__((emulated_kernel))  // no meaning to g++: marks kernels in the preprocessed text
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)  // the launch says how large clusters are
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_assume(condition) ((void)0)

// Shared variables are thread-local variables whose address the runtime resolves: each block has its own copy
// (__tls_get_addr in ../runtime/shared_memory.cpp). Arrays of no size, `extern __shared__ float memory[];`, all
// name the dynamic shared memory.
#define __shared__ thread_local

#define EMULATOR_INLINE static inline __attribute__((always_inline, unused))

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {
EMULATOR_INLINE uint3 as_uint3(Index i) { return {i.x, i.y, i.z}; }
EMULATOR_INLINE dim3 as_dim3(Index i) { return {i.x, i.y, i.z}; }
}  // namespace emulator

#define threadIdx (::emulator::as_uint3(::emulator::thread_index()))
#define blockIdx (::emulator::as_uint3(::emulator::block_index()))
#define blockDim (::emulator::as_dim3(::emulator::block_size()))
#define gridDim (::emulator::as_dim3(::emulator::grid_size()))
static constexpr int warpSize = 32;

EMULATOR_INLINE long long clock64() { return emulator::clock(); }
EMULATOR_INLINE void __nanosleep(unsigned) { emulator::pause(); }
#undef assert
#define assert(condition) ((condition) ? (void)0 : ::emulator::mistake("assertion", "%s", #condition))
EMULATOR_INLINE void __trap() { emulator::mistake("trap", "the kernel called __trap()"); }
