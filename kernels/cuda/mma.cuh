// A warp's part of a product: 16 M rows of a weight matrix that stay where they are for the whole sequence, times 8 N
// columns, the sequences of a batch, which come anew in each step.
//
// With group = lane / 4 and t = lane % 4, a lane holds rows group + 8 r (r < 2 M) and columns 8 n + 2 t + j (n < N, j < 2)
// of the sums: the layout that mma.sync has for its results, kept for float and double, too. 16-bit numbers go to tensor
// cores (sm_80), are multiplied exactly and added up in float. float means float; tf32 is a float that is rounded to 10
// bits of mantissa, to nearest, ties away from zero, wherever it is multiplied.

struct tf32 {
  float value;

  __device__ explicit tf32(float value) : value(value) {}
  tf32() = default;
  __device__ explicit operator float() const { return value; }
};

// d += a b: the words of the PTX manual's fragments of m16n8k16, or of m16n8k8 for tf32.
#ifdef GPU_LSTM_EMULATOR
template <typename S>
struct Mma {
  static void add(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulator::mma_m16n8k16<S>(sum, a, b, sum);
  }
};
template <>
struct Mma<tf32> {
  static void add(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulator::mma_m16n8k8_tf32(sum, a, b, sum);
  }
};
#else
#define MMA(shape, type)                                                                                          \
  static __device__ __forceinline__ void add(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {   \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                                          \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                           \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                             \
  }

template <typename S>
struct Mma;
#ifdef __CUDA_FP16_TYPES_EXIST__
template <>
struct Mma<__half> {
  MMA("m16n8k16", "f16")
};
#endif
#ifdef __CUDA_BF16_TYPES_EXIST__
template <>
struct Mma<__nv_bfloat16> {
  MMA("m16n8k16", "bf16")
};
#endif
template <>
struct Mma<tf32> {
  MMA("m16n8k8", "tf32")
};
#undef MMA
#endif

// Threads of a block: on tensor cores few, so that each has registers for weights.
template <typename S>
constexpr unsigned THREADS = 256;
template <>
constexpr unsigned THREADS<float> = 512;
template <>
constexpr unsigned THREADS<double> = 512;

// Keeps what follows from a value from being computed before the loop over time and kept: registers are for weights.
__device__ __forceinline__ unsigned computed_anew(unsigned value) {
#ifndef GPU_LSTM_EMULATOR
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// As a tensor core takes it.
template <typename S>
__device__ __forceinline__ void round_for_mma(Pack<S, 16 / sizeof(S)>&) {}

__device__ __forceinline__ void round_for_mma(Pack<tf32, 4>& numbers) {
#pragma unroll
  for (int v = 0; v < 4; ++v) {
    float& number = numbers.at[v].value;
#ifdef GPU_LSTM_EMULATOR
    number = __uint_as_float(emulator::tf32_from_float(number));
#else
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(reinterpret_cast<unsigned&>(number)) : "f"(number));
#endif
  }
}

// What a warp does of a product: rows from `first` on, as part number `part` of k, in chunks from `begin` to `end`.
struct Item {
  unsigned first, part, begin, end;

  // Warp w takes part w % split of rows w / split * tall ..
  __device__ Item(unsigned rows, unsigned tall, unsigned chunks, unsigned split) {
    const unsigned warp = threadIdx.x / 32;
    first = warp / split * tall, part = warp % split;
    begin = first < rows ? chunks * part / split : 0;
    end = first < rows ? chunks * (part + 1) / split : 0;
  }
};

// On tensor cores. Of each chunk of 64 bytes of a row, lane t takes 16 bytes in a row of both factors: the order of k
// within a sum is free, as long as both factors have the same. So each lane has weights of its own: those of its first
// chunks stay in registers, the rest in its own places in shared memory.
template <typename S, int M, int N, int FewerHeld = 0>
struct Product {
  static constexpr unsigned tall = 16 * M, depth = 64 / sizeof(S);  // k in a chunk
  // Chunks in registers; fewer, of 16 rows each, where those are needed for other things.
  static constexpr int held = (M >= 3 ? 3 : N == 1 ? (M == 1 ? 12 : 5) : (M == 1 ? 8 : 4)) - FewerHeld / M;
  static constexpr int chains = M * N == 1 ? 2 : 1;                 // sums that don't wait for each other
  using Words = Pack<S, 16 / sizeof(S)>;

  struct Fragment {  // rows group and group + 8
    Words low, high;
  };

  Item item;
  Fragment registers[held][M];
  Words* rest;

  // Bytes of shared memory.
  static __device__ unsigned bytes(unsigned rows, unsigned chunks, unsigned split, unsigned) {
    return (rows + tall - 1) / tall * split * rest_of(chunks, split) * M * 1024;
  }

  // weight(row, k) is the weight, zero beyond the matrix.
  template <typename Weight>
  __device__ __forceinline__ Product(char* memory, unsigned rows, unsigned chunks, unsigned split, unsigned,
                                     const Weight& weight)
      : item(rows, tall, chunks, split) {
    const unsigned lane = threadIdx.x % 32;
    rest = reinterpret_cast<Words*>(memory) + threadIdx.x / 32 * rest_of(chunks, split) * M * 64 + lane;
#pragma unroll
    for (int c = 0; c < held; ++c)
#pragma unroll
      for (int m = 0; m < M; ++m) registers[c][m] = fragment(item.begin + c, m, rows, weight);
#pragma unroll 1
    for (unsigned chunk = item.begin + held; chunk < item.end; ++chunk)
#pragma unroll 1
      for (int m = 0; m < M; ++m) {
        const Fragment two = fragment(chunk, m, rows, weight);
        Words* const to = rest + ((chunk - item.begin - held) * M + m) * 64;
        to[0] = two.low, to[32] = two.high;
      }
  }

  // Hands what it has to `sums`.
  template <typename Columns, typename Sums>
  __device__ __forceinline__ void add(const Columns& columns, unsigned rows, const Sums& sums) const {
    // Chunks that are asked for at once: as many as there are registers for, where that takes long.
    constexpr int ahead = Columns::near && held > 5 ? 4 : held * N <= 12 ? held : held / 2;
    static_assert(held % ahead == 0, "whole groups");
    const unsigned lane = computed_anew(threadIdx.x % 32);
    float sum[chains][M][N][4] = {};
#pragma unroll
    for (int c = 0; c < held; c += ahead)
      if (item.begin + c < item.end)
        some<ahead>(sum, columns, lane, item.begin + c, [&](int more, int m) { return registers[c + more][m]; });
#pragma unroll 1
    for (unsigned chunk = item.begin + held; chunk < item.end; chunk += 2)
      some<2>(sum, columns, lane, chunk, [&](int more, int m) {
        const Words* const from = rest + ((chunk + more - item.begin - held) * M + m) * 64;
        return Fragment{from[0], from[32]};
      });
    if (item.first >= rows) return;
    if (chains == 2)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[0][0][0][e] += sum[chains - 1][0][0][e];
    sums.take(item, rows, sum[0]);
  }

 private:
  // Chunks of a warp that find no place in registers.
  static __device__ unsigned rest_of(unsigned chunks, unsigned split) {
    const unsigned most = (chunks + split - 1) / split;
    return most > held ? most - held : 0;
  }

  template <typename Weight>
  __device__ __forceinline__ Fragment fragment(unsigned chunk, int m, unsigned rows, const Weight& weight) const {
    const unsigned lane = computed_anew(threadIdx.x % 32), row = item.first + 16 * m + lane / 4;
    const unsigned k = chunk * depth + lane % 4 * (16 / sizeof(S));
    Fragment two;
#pragma unroll
    for (int v = 0; v < 16 / sizeof(S); ++v) {
      two.low.at[v] = chunk < item.end ? weight(row, k + v) : S(0.0f);
      two.high.at[v] = chunk < item.end ? weight(row + 8, k + v) : S(0.0f);
    }
    round_for_mma(two.low);
    round_for_mma(two.high);
    return two;
  }

  // Up to Count chunks: all of their columns are asked for before any is waited for.
  template <int Count, typename Columns, typename Weights>
  __device__ __forceinline__ void some(float (&sum)[chains][M][N][4], const Columns& columns, unsigned lane,
                                       unsigned chunk, const Weights& weights) const {
    const unsigned group = lane / 4, k = chunk * depth + lane % 4 * (16 / sizeof(S));
    Words other[Count][N];
#pragma unroll
    for (int c = 0; c < Count; ++c)
#pragma unroll
      for (int n = 0; n < N; ++n)
        if (chunk + c < item.end) other[c][n] = columns.ask(8 * n + group, k + c * depth);
#pragma unroll
    for (int c = 0; c < Count; ++c) {
      if (chunk + c >= item.end) break;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        columns.settle(other[c][n], 8 * n + group, k + c * depth);
        round_for_mma(other[c][n]);
      }
      __syncwarp();  // lanes may have waited for their numbers
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const Fragment two = weights(c, m);
        const unsigned(&low)[4] = words(two.low), (&high)[4] = words(two.high);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int n = 0; n < N; ++n) {
            const unsigned(&of_column)[4] = words(other[c][n]);
            Mma<S>::add(sum[half % chains][m][n],
                        {low[2 * half], high[2 * half], low[2 * half + 1], high[2 * half + 1]},
                        {of_column[2 * half], of_column[2 * half + 1]});
          }
      }
    }
  }

  static __device__ __forceinline__ const unsigned (&words(const Words& numbers))[4] {
    return reinterpret_cast<const unsigned(&)[4]>(numbers);
  }
};

// In float or double: weights lie row by row in shared memory, `pitch` apart.
template <typename T, int M, int N>
struct ScalarProduct {
  static constexpr unsigned tall = 16 * M, depth = 16 / sizeof(T);

  Item item;
  const T* weights;
  unsigned pitch;

  static __device__ unsigned bytes(unsigned rows, unsigned, unsigned, unsigned pitch) { return rows * pitch * sizeof(T); }

  // All threads fill it together: to be followed by a barrier.
  template <typename Weight>
  __device__ __forceinline__ ScalarProduct(char* memory, unsigned rows, unsigned chunks, unsigned split, unsigned pitch,
                                           const Weight& weight)
      : item(rows, tall, chunks, split), weights(reinterpret_cast<T*>(memory)), pitch(pitch) {
    for (unsigned i = threadIdx.x; i < rows * pitch; i += blockDim.x) {
      const unsigned row = Weight::by_rows ? i / pitch : i % rows, k = Weight::by_rows ? i % pitch : i / rows;
      reinterpret_cast<T*>(memory)[row * pitch + k] = weight(row, k);
    }
  }

  template <typename Columns, typename Sums>
  __device__ __forceinline__ void add(const Columns& columns, unsigned rows, const Sums& sums) const {
    const unsigned lane = computed_anew(threadIdx.x % 32), group = lane / 4, t = lane % 4;
    T sum[M][N][4] = {};
#pragma unroll 1
    for (unsigned k = item.begin * depth; k < item.end * depth; k += depth) {
      Pack<T, depth> other[2 * N];
#pragma unroll
      for (int i = 0; i < 2 * N; ++i) other[i] = columns.ask(8 * (i / 2) + 2 * t + i % 2, k);
#pragma unroll
      for (int i = 0; i < 2 * N; ++i) columns.settle(other[i], 8 * (i / 2) + 2 * t + i % 2, k);
#pragma unroll
      for (int r = 0; r < 2 * M; ++r) {
        if (item.first + 8 * r >= rows) continue;
        const Pack<T, depth> row = load<depth>(weights + min(item.first + 8 * r + group, rows - 1) * pitch + k);
#pragma unroll
        for (int i = 0; i < 2 * N; ++i)
#pragma unroll
          for (int v = 0; v < depth; ++v) {
            T& one = sum[r / 2][i / 2][r % 2 * 2 + i % 2];
            one = multiply_add<T>(row.at[v], other[i].at[v], one);
          }
      }
    }
    if (item.first < rows) sums.take(item, rows, sum);
  }
};
template <int M, int N, int FewerHeld>
struct Product<float, M, N, FewerHeld> : ScalarProduct<float, M, N> {
  using ScalarProduct<float, M, N>::ScalarProduct;
};
template <int M, int N, int FewerHeld>
struct Product<double, M, N, FewerHeld> : ScalarProduct<double, M, N> {
  using ScalarProduct<double, M, N>::ScalarProduct;
};
