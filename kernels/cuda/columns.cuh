// What the sequence kernels multiply: weights of a block's own units, by h or dz of its team; and the warps' sums.

// Columns of h or dz: rows of sequences in shared memory, zeros beyond what is there; if Awaited others write them.
template <typename S, bool Awaited>
struct SharedColumns {
  static constexpr bool near = true;
  static constexpr int V = 16 / sizeof(S);
  const S* start;
  unsigned pitch;
  Patience patience;

  __device__ __forceinline__ Pack<S, V> ask(unsigned column, unsigned k) const {
    if constexpr (Awaited) return look_at_own(start + column * pitch + k);
    return load<V>(start + column * pitch + k);
  }
  __device__ __forceinline__ void settle(Pack<S, V>& values, unsigned column, unsigned k) const {
    if constexpr (Awaited) {
      Patience left = patience;
      while (is_missing(values) && !left.over()) values = ask(column, k);
    }
  }
};

// The same in global memory, while others write it: every number says itself whether it is there, so that the grid needs
// no barrier.
template <typename S>
struct AwaitedColumns {
  static constexpr bool near = false;
  static constexpr int V = 16 / sizeof(S);
  const S* start;
  unsigned columns, pitch;
  Patience patience;

  // What is there now.
  __device__ __forceinline__ Pack<S, V> ask(unsigned column, unsigned k) const {
    if (column < columns && k < pitch) return look<S, V>(start + int64(column) * pitch + k);
    Pack<S, V> zeros;
#pragma unroll
    for (int v = 0; v < V; ++v) zeros.at[v] = S(0.0f);
    return zeros;
  }
  // Asks again until all of it is there.
  __device__ __forceinline__ void settle(Pack<S, V>& values, unsigned column, unsigned k) const {
    Patience left = patience;
    while (is_missing(values) && !left.over()) values = ask(column, k);
  }
};

// The next multiple of Count.
template <unsigned Count>
__device__ __forceinline__ unsigned whole(unsigned depth) {
  return (depth + Count - 1) / Count * Count;
}

// Weights of the units from `first` on, zero beyond them: rows of W_hh by gate and unit, or its columns. From `half` on
// those of W_ih, if there is one: of the layer itself, or its columns, of the layer above.
template <typename S>
struct OwnRows {
  static constexpr bool by_rows = true;  // k lie next to each other
  const S *weight_hh, *weight_ih;
  unsigned half, hidden, first, units, share;

  __device__ __forceinline__ S operator()(unsigned row, unsigned k) const {
    const S* const weight = k < half ? weight_hh : weight_ih;
    const unsigned gate = row / share, unit = row % share;
    if (k >= half) k -= half;
    const bool inside = gate < 4 && unit < units && k < hidden && weight;
    return inside ? weight[(int64(gate) * hidden + first + unit) * hidden + k] : S(0.0f);
  }
};
template <typename S>
struct OwnColumns {
  static constexpr bool by_rows = false;
  const S *weight_hh, *weight_ih;
  unsigned half, hidden, first, units;

  __device__ __forceinline__ S operator()(unsigned unit, unsigned k) const {
    const S* const weight = k < half ? weight_hh : weight_ih;
    if (k >= half) k -= half;
    return unit < units && k < 4 * hidden && weight ? weight[int64(k) * hidden + first + unit] : S(0.0f);
  }
};

// Sums of the warps: sums[part][column][row], columns `pitch` apart so that a warp's lanes write to different banks.
template <int N, typename T>
struct Sums {
  T* start;
  unsigned pitch, split;

  __device__ Sums(T* start, unsigned rows, unsigned split)
      : start(start), pitch((rows + 11) / 16 * 16 + 4), split(split) {}
  __device__ T* end() const { return start + split * 8 * N * pitch; }

  // A warp's: sum[m][n], as mma.sync has it.
  template <int M>
  __device__ __forceinline__ void take(const Item& item, unsigned rows, const T (&sum)[M][N][4]) const {
    const unsigned lane = computed_anew(threadIdx.x % 32), group = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const unsigned row = item.first + 16 * m + 8 * (e / 2) + group, column = 8 * n + 2 * t + e % 2;
          if (row < rows) start[(item.part * 8 * N + column) * pitch + row] = sum[m][n][e];
        }
  }

  // Added to the values of Rows rows, `apart` from each other, in the order of parts.
  template <int Rows>
  __device__ __forceinline__ void add_to(T* const (&values)[Rows], unsigned column, unsigned row, unsigned apart) const {
    add_some_to<Rows>(values, column, row, apart, 0, split);
  }
  // Parts from `begin` to `end`.
  template <int Rows>
  __device__ __forceinline__ void add_some_to(T* const (&values)[Rows], unsigned column, unsigned row, unsigned apart,
                                              unsigned begin, unsigned end) const {
    const T* from = start + (begin * 8 * N + column) * pitch + row;
#pragma unroll 2
    for (unsigned part = begin; part < end; ++part, from += 8 * N * pitch)
#pragma unroll
      for (int r = 0; r < Rows; ++r) *values[r] += from[r * apart];
  }
};
