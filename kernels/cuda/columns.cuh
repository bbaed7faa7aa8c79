// What the sequence kernels multiply: weights of a block's own units, by h or dz of its team; and the warps' sums.

// Columns of h or dz: rows of sequences in shared memory, zeros beyond what is there.
template <typename S>
struct SharedColumns {
  static constexpr int V = 16 / sizeof(S);
  const S* start;
  unsigned pitch;

  __device__ __forceinline__ Pack<S, V> ask(unsigned column, unsigned k) const {
    return load<V>(start + column * pitch + k);
  }
  __device__ void settle(Pack<S, V>&, unsigned, unsigned) const {}
};

// The same in global memory, while others write it: every number says itself whether it is there, so that the grid needs
// no barrier.
template <typename S>
struct AwaitedColumns {
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
  unsigned pitch;

  __device__ Sums(T* start, unsigned rows) : start(start), pitch((rows + 11) / 16 * 16 + 4) {}

  // Those of parts from `begin` to `end` added to the values of Rows rows, `apart` from each other, in the order of parts.
  template <int Rows>
  __device__ __forceinline__ void add_to(T* const (&values)[Rows], unsigned column, unsigned row, unsigned apart,
                                         unsigned begin, unsigned end) const {
    const T* from = start + (begin * 8 * N + column) * pitch + row;
#pragma unroll 2
    for (unsigned part = begin; part < end; ++part, from += 8 * N * pitch)
#pragma unroll
      for (int r = 0; r < Rows; ++r) *values[r] += from[r * apart];
  }
};
