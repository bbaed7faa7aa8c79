// Rows of a table by number, the gradient of the table, and the check of the numbers.

#include "common.cuh"

// Smallest and largest number outside 0..size-1, but for `besides` if it has one. Atomics on whole numbers: the result
// doesn't depend on their order.
__global__ void check_range(const int64* index, int64 count, int64 size, int has_besides, int64 besides, int64* low,
                            int64* high) {
  const int64 step = int64(gridDim.x) * blockDim.x;
  for (int64 n = int64(blockIdx.x) * blockDim.x + threadIdx.x; n < count; n += step) {
    const int64 value = index[n];
    if ((value >= 0 && value < size) || (has_besides && value == besides)) continue;
    atomicMin(low, value);
    atomicMax(high, value);
  }
}

// out[n] = table[index[n]], one block a row; numbers out of range give the first or last row.
template <typename S>
__global__ void take_rows(const S* table,      // (size, width)
                          const int64* index,  // (count,)
                          S* out,              // (count, width)
                          int64 size, int64 width) {
  const int64 n = blockIdx.x, value = index[n], row = value < 0 ? 0 : value < size ? value : size - 1;
  for (int64 k = threadIdx.x; k < width; k += blockDim.x) out[n * width + k] = table[row * width + k];
}

// target[index[n]] += rows[n], without sorting and without atomics on floating-point numbers: the block of the first n
// that has a number adds up all rows of that number, the other blocks leave. Block (n, s) takes the 32 columns from
// 32 s on; its warps share the matches, each in ascending order, and their sums are added in the order of the warps.
template <typename S, int Warps>
__global__ void scatter_add(S* target,           // (size, width)
                            const int64* index,  // (count,)
                            const S* rows,       // (count, width)
                            int64 count, int64 size, int64 width) {
  using T = Arithmetic<S>;
  constexpr int threads = 32 * Warps;
  __shared__ int64 found[threads];
  __shared__ unsigned counts[Warps];
  __shared__ T parts[Warps][32];
  const int64 n = blockIdx.x, wanted = index[n];
  if (wanted < 0 || wanted >= size) return;
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64 first = 0; first < n; first += threads) {
    const int64 m = first + threadIdx.x;
    if (__syncthreads_or(m < n && index[m] == wanted)) return;
  }
  const int64 column = int64(blockIdx.y) * 32 + lane;
  T sum = T(0);
  for (int64 first = n; first < count; first += threads) {
    // The matches among the next numbers, listed in order.
    const int64 m = first + threadIdx.x;
    const bool match = m < count && index[m] == wanted;
    const unsigned votes = __ballot_sync(~0u, match);
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();
    unsigned place = 0, matches = 0;
    for (unsigned w = 0; w < Warps; ++w) {
      if (w < warp) place += counts[w];
      matches += counts[w];
    }
    if (match) found[place + __popc(votes & ((1u << lane) - 1))] = m;
    __syncthreads();
    if (column < width)
#pragma unroll 4
      for (unsigned k = warp; k < matches; k += Warps) sum += T(rows[found[k] * width + column]);
    __syncthreads();
  }
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && column < width) {
    for (int w = 1; w < Warps; ++w) sum += parts[w][lane];
    S& to = target[wanted * width + column];
    to = S(T(to) + sum);
  }
}
