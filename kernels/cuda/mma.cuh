// A warp's part of a product: 16 M rows of a weight matrix that stay where they are for the whole sequence, times 8 N
// columns, the sequences of a batch, which come anew in each step.
//
// With group = lane / 4 and t = lane % 4, a lane has 16 bytes of rows and columns number group (+ 8, ...) at t in each 64
// bytes of a row, and of the results rows group + 8 r (r < 2 M) and columns 8 n + 2 t + j (n < N, j < 2), as mma.sync has
// it, and float and double here, too. 16-bit numbers go to tensor cores (sm_80), are multiplied exactly and added up in
// float. float means float; tf32 is a float that is rounded to 10 bits of mantissa, to nearest, ties away from zero,
// wherever it is multiplied.

struct tf32 {
  float value;

  __device__ explicit tf32(float value) : value(value) {}
  tf32() = default;
  __device__ explicit operator float() const { return value; }
};

// d += a b: the words of the PTX manual's fragments of m16n8k16, or of m16n8k8 for tf32.
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

// Threads of a block: few, so that each has registers for weights.
constexpr unsigned THREADS = 256;

// Keeps what follows from a value from being computed before the loop over time and kept: registers are for weights.
__device__ __forceinline__ unsigned computed_anew(unsigned value) {
  asm volatile("" : "+r"(value));
  return value;
}

// As a tensor core takes it.
template <typename S>
__device__ __forceinline__ void round_for_mma(Pack<S, 16 / sizeof(S)>&) {}

__device__ __forceinline__ void round_for_mma(Pack<tf32, 4>& numbers) {
#pragma unroll
  for (int v = 0; v < 4; ++v) {
    float& number = numbers.at[v].value;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(reinterpret_cast<unsigned&>(number)) : "f"(number));
  }
}

// 16 bytes as words.
template <typename S>
__device__ __forceinline__ const unsigned (&words(const Pack<S, 16 / sizeof(S)>& numbers))[4] {
  return reinterpret_cast<const unsigned(&)[4]>(numbers);
}

// Of 64 bytes of 16 rows, a lane's in rows group and group + 8.
template <typename S>
struct Fragment {
  Pack<S, 16 / sizeof(S)> low, high;
};

// The sums of a warp: `add` adds those over 64 bytes of all rows and columns, `finish` hands them on, sum[m][n] as
// mma.sync has it. The order of k within a sum is free, as long as both factors have the same: mma.sync can't tell.
template <typename S, int M, int N>
struct Accumulator {
  static constexpr int chains = M * N == 1 ? 2 : 1;  // sums that don't wait for each other
  static constexpr int ahead = M >= 3 ? 3 : 6 / N;   // chunks of columns on their way, where that takes long
  static constexpr int fewer_held = 0;
  float sum[chains][M][N][4] = {};

  template <typename Weights>
  __device__ __forceinline__ void add(const Weights& weights, const Pack<S, 16 / sizeof(S)> (&columns)[N]) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const Fragment<S> two = weights(m);
      const unsigned(&low)[4] = words(two.low), (&high)[4] = words(two.high);
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const unsigned(&column)[4] = words(columns[n]);
          Mma<S>::add(sum[half % chains][m][n],
                      {low[2 * half], high[2 * half], low[2 * half + 1], high[2 * half + 1]},
                      {column[2 * half], column[2 * half + 1]});
        }
    }
  }
  template <typename Take>
  __device__ __forceinline__ void finish(const Take& take) {
    if (chains == 2)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[0][0][0][e] += sum[chains - 1][0][0][e];
    take(sum[0]);
  }
};

// In float and double a lane multiplies what it has of the rows by all columns, which lanes shuffle to each other: 2 M
// multiply-adds for each number that moves. Then lanes of a group add up theirs; each has the columns in another order, so
// that those it keeps are always the first two.
template <typename T, int M, int N>
struct InLanes {
  static constexpr int V = 16 / sizeof(T), ahead = N == 1 && sizeof(T) == 4 ? 3 : 2;
  // Chunks of weights, for the sums take registers.
  static constexpr int fewer_held = sizeof(T) == 8 ? 4 / M : M * N / 4 * 2;
  T sum[2 * M][8 * N] = {};

  template <typename Weights>
  __device__ __forceinline__ void add(const Weights& weights, const Pack<T, V> (&columns)[N]) {
    const unsigned lane = computed_anew(threadIdx.x % 32), own = lane % 4 * 9;
    Fragment<T> of_rows[M];
#pragma unroll
    for (int m = 0; m < M; ++m) of_rows[m] = weights(m);
#pragma unroll
    for (int c = 0; c < 8 * N; ++c) {
      Pack<T, V> column;
      unsigned* const word = reinterpret_cast<unsigned*>(&column);
#pragma unroll
      for (int w = 0; w < 4; ++w) word[w] = __shfl_sync(~0u, words(columns[c / 8])[w], c % 8 * 4 ^ own);
#pragma unroll
      for (int v = 0; v < V; ++v)
#pragma unroll
        for (int m = 0; m < M; ++m) {
          sum[2 * m][c] = multiply_add<T>(of_rows[m].low.at[v], column.at[v], sum[2 * m][c]);
          sum[2 * m + 1][c] = multiply_add<T>(of_rows[m].high.at[v], column.at[v], sum[2 * m + 1][c]);
        }
    }
  }
  template <typename Take>
  __device__ __forceinline__ void finish(const Take& take) {
    T result[M][N][4];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          T* const row = sum[2 * m + r] + 8 * n;
#pragma unroll
          for (int apart = 4; apart > 1; apart /= 2)
#pragma unroll
            for (int c = 0; c < apart; ++c) row[c] += __shfl_xor_sync(~0u, row[c + apart], apart / 2);
          result[m][n][2 * r] = row[0], result[m][n][2 * r + 1] = row[1];
        }
    take(result);
  }
};
template <int M, int N>
struct Accumulator<float, M, N> : InLanes<float, M, N> {};
template <int M, int N>
struct Accumulator<double, M, N> : InLanes<double, M, N> {};

// What a warp does of a product: rows from `first` on, as part number `part` of k, in chunks from `begin` to `end`.
struct Item {
  unsigned first, part, begin, end;

  // Warp w takes part w % split of rows w / split * tall ..
  __device__ Item(unsigned rows, unsigned tall, unsigned chunks, unsigned split) {
    const unsigned warp = __shfl_sync(~0u, threadIdx.x / 32, 0);  // so that the compiler knows: all lanes have the same
    first = warp / split * tall, part = warp % split;
    begin = first < rows ? chunks * part / split : 0;
    end = first < rows ? chunks * (part + 1) / split : 0;
  }
};

// Each lane has weights that no other lane needs: those of its first chunks, of 64 bytes of a row, stay in registers, the
// rest in its own places in shared memory.
template <typename S, int M, int N, int FewerHeld = 0>
struct Product {
  static constexpr unsigned tall = 16 * M, depth = 64 / sizeof(S);  // k in a chunk
  // Chunks in registers; fewer, of 16 rows each, where those are needed for other things.
  static constexpr int held = (M >= 3 ? 3 : N == 1 ? (M == 1 ? 12 : 5) : (M == 1 ? 8 : 4)) - FewerHeld / M -
                              Accumulator<S, M, N>::fewer_held;
  using Words = Pack<S, 16 / sizeof(S)>;

  Item item;
  Fragment<S> registers[held ? held : 1][M];
  Words* rest;

  // Bytes of shared memory.
  static __device__ unsigned bytes(unsigned rows, unsigned chunks, unsigned split) {
    return (rows + tall - 1) / tall * split * rest_of(chunks, split) * M * 1024;
  }

  // weights.line(row) is a row of the weights.
  template <typename Weights>
  __device__ __forceinline__ Product(char* memory, unsigned rows, unsigned chunks, unsigned split, const Weights& weights)
      : item(rows, tall, chunks, split) {
    rest = reinterpret_cast<Words*>(memory) + threadIdx.x / 32 * rest_of(chunks, split) * M * 64 + threadIdx.x % 32;
    if (weights.whole())
      keep<Weights::by_rows>(weights);
    else
      keep<false>(weights);
  }

  // Hands what it has to `sums`.
  template <typename Columns, typename Sums>
  __device__ __forceinline__ void add(const Columns& columns, unsigned rows, const Sums& sums) const {
    constexpr int ahead = (Columns::near ? 2 : Accumulator<S, M, N>::ahead) - FewerHeld / 4;
    const unsigned lane = computed_anew(threadIdx.x % 32), group = lane / 4, own = lane % 4 * (16 / sizeof(S));
    Accumulator<S, M, N> sum;
    Words other[ahead][N];
    const auto ask = [&](int place, unsigned chunk) {
      if (computed_anew(chunk) < item.end)  // in disguise: else the compiler makes two of all that follows
#pragma unroll
        for (int n = 0; n < N; ++n) other[place][n] = columns.ask(8 * n + group, chunk * depth + own);
    };
    const auto multiply = [&](int place, unsigned chunk, const auto& weights) {
      if (chunk >= item.end) return;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        columns.settle(other[place][n], 8 * n + group, chunk * depth + own);
        round_for_mma(other[place][n]);
      }
      sum.add(weights, other[place]);
      ask(place, chunk + ahead);
    };
#pragma unroll
    for (int c = 0; c < ahead; ++c) ask(c, item.begin + c);
#pragma unroll
    for (int c = 0; c < held; ++c) multiply(c % ahead, item.begin + c, [&](int m) { return registers[c][m]; });
#pragma unroll 1
    for (unsigned chunk = item.begin + held; chunk < item.end; chunk += ahead)
#pragma unroll
      for (int c = 0; c < ahead; ++c)
        multiply((held + c) % ahead, chunk + c, [&](int m) {
          const Words* const from = rest + ((chunk + c - item.begin - held) * M + m) * 64;
          return Fragment<S>{from[0], from[32]};
        });
    if (item.first < rows) sum.finish([&](const auto& result) { sums.take(item, rows, result); });
  }

 private:
  // Chunks of a warp that find no place in registers.
  static __device__ unsigned rest_of(unsigned chunks, unsigned split) {
    const unsigned most = (chunks + split - 1) / split;
    return most > held ? most - held : 0;
  }

  template <bool Whole, typename Weights>
  __device__ __forceinline__ void keep(const Weights& weights) {
    const unsigned lane = threadIdx.x % 32, own = lane % 4 * (16 / sizeof(S));
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const unsigned row = item.first + 16 * m + lane / 4;
      const auto low = weights.line(row), high = weights.line(row + 8);
      const auto fragment = [&](unsigned chunk) {
        const unsigned k = chunk * depth + own;
        Fragment<S> two = {low.template at<Whole>(k), high.template at<Whole>(k)};
        round_for_mma(two.low);
        round_for_mma(two.high);
        return two;
      };
#pragma unroll
      for (int c = 0; c < held; ++c)
        if (item.begin + c < item.end) registers[c][m] = fragment(item.begin + c);
#pragma unroll 1
      for (unsigned chunk = item.begin + held; chunk < item.end; ++chunk) {
        const Fragment<S> two = fragment(chunk);
        Words* const to = rest + ((chunk - item.begin - held) * M + m) * 64;
        to[0] = two.low, to[32] = two.high;
      }
    }
  }
};
