// One small kernel for each part of the language that kernels use.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// ---- where am I

// where (blocks in grid, threads in block, 6) = blockIdx, threadIdx; sizes (6) = gridDim, blockDim
extern "C" __global__ void indices(int* where, int* sizes) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  int* mine = where + 6 * (block * blockDim.x * blockDim.y * blockDim.z + thread);
  const uint3 b = blockIdx, t = threadIdx;
  mine[0] = b.x, mine[1] = b.y, mine[2] = b.z, mine[3] = t.x, mine[4] = t.y, mine[5] = t.z;
  if (block == 0 && thread == 0) {
    const dim3 g = gridDim, n = blockDim;
    sizes[0] = g.x, sizes[1] = g.y, sizes[2] = g.z, sizes[3] = n.x, sizes[4] = n.y, sizes[5] = n.z;
  }
}

// ---- templates, lambdas, constants, unrolling

__constant__ float coefficients[4] = {1.0f, 0.5f, 0.25f, 0.125f};

template <typename F>
__device__ __forceinline__ float apply(F f, float x) {
  return f(x);
}

template <int N>
__global__ void __launch_bounds__(64, 2) polynomial(const float* __restrict__ x, float* __restrict__ y, float scale) {
  const auto horner = [=](float v) {
    float sum = 0.0f;
#pragma unroll
    for (int k = N - 1; k >= 0; --k) sum = fmaf(sum, v, coefficients[k]);
    return scale * sum;
  };
  y[threadIdx.x] = apply(horner, x[threadIdx.x]);
}

struct Pair {
  const float* x;
  int n;
};

// Structures by value, and an array of them.
extern "C" __global__ void sum_of_pairs(Pair first, const Pair* others, int count, double* total) {
  double sum = 0.0;
  for (int i = 0; i < first.n; ++i) sum += first.x[i];
  for (int k = 0; k < count; ++k)
    for (int i = 0; i < others[k].n; ++i) sum += others[k].x[i];
  *total = sum;
}

// ---- shared memory: static in two dimensions and dynamic, several types in one

template <typename T, int N>
__global__ void transpose(const T* x, T* y, int rows, int columns) {
  __shared__ T tile[N][N + 1];
  extern __shared__ __align__(16) unsigned char memory[];
  int* seen = (int*)(memory + 64);
  int row = blockIdx.y * N + threadIdx.y, column = blockIdx.x * N + threadIdx.x;
  if (row < rows && column < columns) tile[threadIdx.y][threadIdx.x] = x[row * columns + column];
  if (threadIdx.x == 0 && threadIdx.y == 0) *seen = 0;
  __syncthreads();
  row = blockIdx.x * N + threadIdx.y, column = blockIdx.y * N + threadIdx.x;
  if (row < columns && column < rows) {
    y[row * rows + column] = tile[threadIdx.x][threadIdx.y];
    atomicAdd(seen, 1);
  }
}

// ---- barriers that count; results (3, threads)
extern "C" __global__ void counting_barriers(const int* x, int* results) {
  const int i = threadIdx.x, n = blockDim.x;
  results[i] = __syncthreads_count(x[i]);
  results[n + i] = __syncthreads_or(x[i] > 5);
  results[2 * n + i] = __syncthreads_and(x[i] >= 0);
}

// ---- warps

// results (16, 32)
extern "C" __global__ void warp_operations(const float* x, int* results) {
  const int i = threadIdx.x;
  const unsigned all = 0xffffffffu;
  int* r = results + i;
  r[0] = (int)__shfl_sync(all, x[i], 5);
  r[32] = (int)__shfl_sync(all, x[i], i + 1, 8);
  r[64] = (int)__shfl_up_sync(all, x[i], 2);
  r[96] = (int)__shfl_down_sync(all, x[i], 3, 16);
  r[128] = (int)__shfl_xor_sync(all, x[i], 16);
  r[160] = (int)__ballot_sync(all, x[i] > 10.0f);
  r[192] = __any_sync(all, x[i] == 31.0f);
  r[224] = __all_sync(all, x[i] < 31.0f);
  r[256] = (int)__activemask();
  r[288] = (int)__match_any_sync(all, i / 8);
  r[320] = __reduce_add_sync(all, i);
  r[352] = __reduce_max_sync(all, i);
  r[384] = (int)__shfl_sync(all, (double)x[i] + 0.5, 31);
  r[416] = __half2int_rn(__shfl_xor_sync(all, __float2half(x[i]), 1));
  if (i < 16) {
    r[448] = (int)__shfl_sync(0xffffu, x[i], 15 - i);
  } else {
    r[448] = __popc(__ballot_sync(0xffff0000u, i % 2));
  }
  int same = 0;
  __match_all_sync(all, i < 40, &same);
  r[480] = same;
}

// The last lanes return; the others go on by themselves.
extern "C" __global__ void lanes_return(int* results) {
  if (threadIdx.x >= 20) return;
  int sum = threadIdx.x;
  for (int distance = 16; distance; distance /= 2) {
    const int other = threadIdx.x + distance;
    const int value = __shfl_sync(0xffffffffu, sum, other < 20 ? other : threadIdx.x);
    if (other < 20) sum += value;
  }
  results[threadIdx.x] = (int)__activemask();
  __syncwarp();
  if (threadIdx.x == 0) results[20] = sum;
}

// ---- atomics; i (8) integers, f (2) floats, d (1) double, h (1) half, b (1) bfloat16, olds (threads)
extern "C" __global__ void atomics(unsigned* i, float* f, double* d, __half* h, __nv_bfloat16* b, unsigned* olds) {
  const unsigned t = blockIdx.x * blockDim.x + threadIdx.x;
  olds[t] = atomicAdd(&i[0], 1);
  atomicSub(&i[1], 2u);
  atomicMax(&i[2], t);
  atomicMin(&i[3], t);
  atomicInc(&i[4], 9u);
  atomicOr(&i[5], 1u << t % 32);
  atomicAnd(&i[6], ~(1u << t % 32));
  atomicXor(&i[7], t);
  atomicAdd(&f[0], 0.5f);
  unsigned* bits = (unsigned*)&f[1];  // a maximum of floats, by compare and swap
  for (unsigned seen = *(volatile unsigned*)bits; __uint_as_float(seen) < (float)t;) {
    const unsigned before = atomicCAS(bits, seen, __float_as_uint((float)t));
    if (before == seen) break;
    seen = before;
  }
  atomicAdd(d, 0.25);
  if (t < 100) atomicAdd(h, __float2half(1.0f));
  if (t < 100) atomicAdd(b, __float2bfloat16(1.0f));
}

// ---- vectors
extern "C" __global__ void vectors(const float4* x, float2* sums, int4* numbers, double2* halves) {
  const float4 v = __ldg(x + threadIdx.x);
  sums[threadIdx.x] = make_float2(v.x + v.y, v.z + v.w);
  __stcg(numbers + threadIdx.x, make_int4((int)v.x, (int)v.y, (int)v.z, (int)v.w));
  halves[threadIdx.x] = make_double2(v.x / 2, v.y / 2);
}

// ---- arithmetic; y (20, n)
extern "C" __global__ void arithmetic(const float* x, float* y, int n) {
  const int i = threadIdx.x;
  const float v = x[i];
  y += i;
  int row = 0;
  const auto put = [&](float value) { y[n * row++] = value; };
  put(__expf(v)), put(__logf(v)), put(__fdividef(v, 3.0f)), put(__frcp_rn(v)), put(rsqrtf(v));
  put(__powf(v, 1.5f)), put(__saturatef(v)), put(__fmaf_rn(v, v, 1.0f)), put(max(v, 1.0f)), put(min(2, 3u));
  put(__sinf(v)), put((float)__float2int_rn(v)), put(tanhf(v)), put(__int_as_float(__float_as_int(v) + 1));
  put((float)__popc(__float_as_uint(v))), put((float)__clz(i)), put((float)__ffs(i));
  put((float)__umulhi(0x80000000u, i)), put((float)(__brev(1u << i % 32) >> 8)), put((float)__byte_perm(i, 7, 0x0004));
}

// ---- time
extern "C" __global__ void time_passes(long long* ticks) {
  const long long start = clock64();
  volatile float sum = 0.0f;
  for (int i = 0; i < 100; ++i) sum = sum + i;
  ticks[threadIdx.x] = clock64() - start;
}
