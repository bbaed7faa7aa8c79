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
    if constexpr (Awaited) await_all(values, patience, [&] { return ask(column, k); });
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
    await_all(values, patience, [&] { return ask(column, k); });
  }
};

// The next multiple of Count.
template <unsigned Count>
__device__ __forceinline__ unsigned whole(unsigned depth) {
  return (depth + Count - 1) / Count * Count;
}

// A row of the weights that a block multiplies by.
template <typename S>
struct Line {
  static constexpr int V = 16 / sizeof(S);
  const S *first, *second;  // its numbers; from `half` on, those of another matrix
  unsigned half, length, apart;  // how many numbers each has, and how far apart they are

  // Those from k on, zeros beyond its length; Whole: they are neighbours, and all are there or none. The loads depend on
  // nothing: beyond it, they are of its last number, or where it has none, of the first one.
  template <bool Whole>
  __device__ __forceinline__ Pack<S, V> at(unsigned k) const {
    const S* const from = k < half ? first : second;
    if (k >= half) k -= half;
    const unsigned last = length ? length - 1 : 0;
    Pack<S, V> values;
    unsigned* const word = reinterpret_cast<unsigned*>(&values);
    if constexpr (Whole) {
      values = load<V>(from + min(k, last / V * V));
#pragma unroll
      for (int w = 0; w < 4; ++w) word[w] = k < length ? word[w] : 0;
    } else {
      Bits<S> bits[V];
#pragma unroll
      for (int v = 0; v < V; ++v)
        bits[v] = reinterpret_cast<const Bits<S>*>(from)[static_cast<unsigned long long>(min(k + v, last)) * apart];
#pragma unroll
      for (int v = 0; v < V; ++v) bits[v] = k + v < length ? bits[v] : Bits<S>(0);
      // Word by word, else each of 16 bits takes a register until all are there.
#pragma unroll
      for (int w = 0; w < 4; ++w)
        if constexpr (sizeof(S) == 2)
          word[w] = bits[2 * w] | unsigned(bits[2 * w + 1]) << 16;
        else
          word[w] = reinterpret_cast<const unsigned*>(bits)[w];
    }
    return values;
  }
};

// Weights of the units from `first` on: rows of W_hh by gate and unit, or its columns. From k = `half` on those of W_ih,
// if there is one: of the layer itself, or its columns, of the layer above.
template <typename S>
struct OwnRows {
  static constexpr bool by_rows = true;  // k lie next to each other
  const S *weight_hh, *weight_ih;
  unsigned half, hidden, first, units, share;

  // Every 16 bytes of a row can be read at once.
  __device__ bool whole() const {
    const auto address = reinterpret_cast<unsigned long long>(weight_hh) | reinterpret_cast<unsigned long long>(weight_ih);
    return hidden % (16 / sizeof(S)) == 0 && address % 16 == 0;
  }
  __device__ __forceinline__ Line<S> line(unsigned row) const {
    const unsigned gate = row / share, unit = row - gate * share;
    const bool inside = gate < 4 && unit < units;
    const int64 start = inside ? (int64(gate) * hidden + first + unit) * hidden : 0;
    return {weight_hh + start, weight_ih + start, half, inside ? hidden : 0, 1};
  }
};
template <typename S>
struct OwnColumns {
  static constexpr bool by_rows = false;
  static constexpr bool whole() { return false; }
  const S *weight_hh, *weight_ih;
  unsigned half, hidden, first, units;

  __device__ __forceinline__ Line<S> line(unsigned unit) const {
    const bool inside = unit < units;
    const unsigned start = inside ? first + unit : 0;
    return {weight_hh + start, weight_ih + start, half, inside ? 4 * hidden : 0, hidden};
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

// What a block multiplies by in forward: see BackwardParts in joint.cuh.
template <typename S, int N>
struct ForwardParts {
  using Sum = Sums<N, Arithmetic<S>>;
  static constexpr unsigned deep = 1, blocks = 1;
  template <typename Layout>
  static __device__ unsigned rows(const Layout& layout) {
    return 4 * layout.share;
  }
  template <typename Work>
  static __device__ OwnRows<S> weights(const S* weight_hh, const S* weight_ih, const Work& work, unsigned half) {
    return {weight_hh, weight_ih, half, work.layout.hidden, work.first_unit, work.units, work.layout.share};
  }
};
