// A warp's part of a product: 32 rows of a weight matrix in shared memory times 8 N columns, the sequences of a batch.
//
// With group = lane / 4 and t = lane % 4, a lane holds rows group + 8 r (r < 4) and columns 8 n + 2 t + j (n < N, j < 2)
// of the sums: the layout that mma.sync has for its results, kept for float and double, too. 16-bit numbers go to tensor
// cores (sm_80), are multiplied exactly and added up in float; float means float, never TF32.

#ifdef GPU_LSTM_EMULATOR
template <typename S>
__device__ __forceinline__ void mma_m16n8k16(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator::mma_m16n8k16<S>(sum, a, b, sum);
}
#else
template <typename S>
struct MmaOf {
  static constexpr bool bfloat16 = true;
};
#ifdef __CUDA_FP16_TYPES_EXIST__
template <>
struct MmaOf<__half> {
  static constexpr bool bfloat16 = false;
};
#endif

#define MMA(type)                                                                                                    \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                                \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                \
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

template <typename S>
__device__ __forceinline__ void mma_m16n8k16(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  if constexpr (MmaOf<S>::bfloat16) {
    MMA("bf16");
  } else {
    MMA("f16");
  }
#endif
}
#undef MMA
#endif

// 16-bit numbers. Of each 32 k, lane t takes 8 t .. 8 t + 7 of its rows and columns, 16 bytes at once: the order of k
// within a sum is free, as long as both factors have the same.
template <typename S, int N>
struct Tile {
  static constexpr unsigned depth = 32;  // k in one call of `add`
  float sum[2][N][4] = {};

  template <typename Columns>
  __device__ __forceinline__ void add(const S* weights, unsigned rows, unsigned pitch, const Columns& columns,
                                      unsigned k) {
    const unsigned group = threadIdx.x % 32 / 4;
    k += threadIdx.x % 4 * 8;
    Pack<S, 8> other[N];
#pragma unroll
    for (int n = 0; n < N; ++n) other[n] = columns.at(8 * n + group, k);
    __syncwarp();  // lanes may have waited for their numbers
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      if (16 * m >= rows) continue;
      const Pack<S, 8> low = load<8>(weights + min(16 * m + group, rows - 1) * pitch + k);
      const Pack<S, 8> high = load<8>(weights + min(16 * m + 8 + group, rows - 1) * pitch + k);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          mma_m16n8k16<S>(
              sum[m][n], {two(low, 2 * half), two(high, 2 * half), two(low, 2 * half + 1), two(high, 2 * half + 1)},
              {two(other[n], 2 * half), two(other[n], 2 * half + 1)});
    }
  }

  __device__ __forceinline__ float at(int r, int n, int j) const { return sum[r / 2][n][r % 2 * 2 + j]; }

 private:
  // Two neighbours in one register.
  static __device__ __forceinline__ unsigned two(const Pack<S, 8>& numbers, int pair) {
    return reinterpret_cast<const unsigned*>(&numbers)[pair];
  }
};

template <typename T, int N>
struct ScalarTile {
  static constexpr unsigned depth = 16 / sizeof(T);
  T sum[4][2 * N] = {};

  template <typename Columns>
  __device__ __forceinline__ void add(const T* weights, unsigned rows, unsigned pitch, const Columns& columns,
                                      unsigned k) {
    const unsigned group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Pack<T, depth> other[2 * N];
#pragma unroll
    for (int i = 0; i < 2 * N; ++i) other[i] = columns.at(8 * (i / 2) + 2 * t + i % 2, k);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if (8 * r >= rows) continue;
      const Pack<T, depth> row = load<depth>(weights + min(8 * r + group, rows - 1) * pitch + k);
#pragma unroll
      for (int i = 0; i < 2 * N; ++i)
#pragma unroll
        for (int v = 0; v < depth; ++v) sum[r][i] += row.at[v] * other[i].at[v];
    }
  }

  __device__ __forceinline__ T at(int r, int n, int j) const { return sum[r][2 * n + j]; }
};
template <int N>
struct Tile<float, N> : ScalarTile<float, N> {};
template <int N>
struct Tile<double, N> : ScalarTile<double, N> {};
