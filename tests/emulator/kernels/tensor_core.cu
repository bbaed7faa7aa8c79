// One tile: d (16 x 8) = a (16 x k) b (k x 8) + c, all row by row in memory. Each lane loads its fragments as the PTX
// manual lays them out, and stores its part of d.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename Number>
__device__ unsigned two(Number low, Number high) {
  return (unsigned)low.bits | (unsigned)high.bits << 16;
}

__device__ void load_c(float (&fragment)[4], const float* c) {
  const int group = threadIdx.x / 4, t = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) fragment[i] = c[(group + i / 2 * 8) * 8 + 2 * t + i % 2];
}
__device__ void store_d(float* d, const float (&fragment)[4]) {
  const int group = threadIdx.x / 4, t = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + 2 * t + i % 2] = fragment[i];
}

template <typename Number>
__global__ void product_16(const Number* a, const Number* b, const float* c, float* d) {
  const int group = threadIdx.x / 4, t = threadIdx.x % 4;
  unsigned of_a[4], of_b[2];
  for (int i = 0; i < 8; i += 2) {
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, column = 2 * t + (i < 4 ? 0 : 8);
    of_a[i / 2] = two(a[row * 16 + column], a[row * 16 + column + 1]);
  }
  for (int i = 0; i < 4; i += 2) {
    const int row = 2 * t + (i < 2 ? 0 : 8);
    of_b[i / 2] = two(b[row * 8 + group], b[(row + 1) * 8 + group]);
  }
  float sum[4];
  load_c(sum, c);
  emulator::mma_m16n8k16<Number>(sum, of_a, of_b, sum);
  store_d(d, sum);
}

__global__ void product_tf32(const float* a, const float* b, const float* c, float* d) {
  const int group = threadIdx.x / 4, t = threadIdx.x % 4;
  unsigned of_a[4], of_b[2];
  for (int i = 0; i < 4; ++i) {
    const int row = i == 0 || i == 2 ? group : group + 8, column = i < 2 ? t : t + 4;
    of_a[i] = emulator::tf32_from_float(a[row * 8 + column]);
  }
  for (int i = 0; i < 2; ++i) of_b[i] = emulator::tf32_from_float(b[(t + 4 * i) * 8 + group]);
  float sum[4];
  load_c(sum, c);
  emulator::mma_m16n8k8_tf32(sum, of_a, of_b, sum);
  store_d(d, sum);
}

// The same as product_16 with ldmatrix, which must give the same fragments: a by four matrices, b (row by row in
// memory) transposed.
template <typename Number>
__global__ void product_by_ldmatrix(const Number* a, const Number* b, const float* c, float* d) {
  __shared__ __align__(16) Number in_a[16 * 16], in_b[16 * 8];
  for (int i = threadIdx.x; i < 16 * 16; i += 32) in_a[i] = a[i];
  for (int i = threadIdx.x; i < 16 * 8; i += 32) in_b[i] = b[i];
  __syncwarp();
  const int lane = threadIdx.x, matrix = lane / 8, row = lane % 8;
  unsigned of_a[4], of_b[2];
  emulator::load_matrix(of_a, &in_a[(row + matrix % 2 * 8) * 16 + matrix / 2 * 8]);
  emulator::load_matrix<2, true>(of_b, &in_b[lane % 16 * 8]);
  float sum[4];
  load_c(sum, c);
  emulator::mma_m16n8k16<Number>(sum, of_a, of_b, sum);
  store_d(d, sum);
}

// A warp whose lanes don't all come.
__global__ void product_of_half_a_warp(float* d) {
  if (threadIdx.x >= 16) return;
  float sum[4] = {};
  emulator::mma_m16n8k8_tf32(sum, {1, 2, 3, 4}, {1, 2}, sum);
  d[threadIdx.x] = sum[0];
}
