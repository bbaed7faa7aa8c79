// One sequence alone: its four gates at once, for the sums of one gate are fewer than multiply-adds are in flight.

// through_gates() of one row, with N vectors of units: the same sums in the same order.
template <typename T, int N = TILE_VECTORS>
__attribute__((noinline)) void row_through_gates(const T* a, long depth, const T* panels, long count, T* sums, bool add,
                                                 long pitch) {
  using V = typename Simd<T>::V;
  constexpr long width = Simd<T>::width;
  if constexpr (N > 1)
    if (count <= (N - 1) * width) return row_through_gates<T, N - 1>(a, depth, panels, count, sums, add, pitch);
  for (long first = 0; first < depth; first += kDepth) {
    V found[4][N] = {};
    for (long k = first; k < least(first + kDepth, depth); ++k)
#pragma GCC unroll 4
      for (int gate = 0; gate < 4; ++gate)
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) found[gate][v] += a[k] * load(panels + ((gate * depth + k) * N + v) * width);
    for (int gate = 0; gate < 4; ++gate)
      for (int v = 0; v < N; ++v) {
        T* to = sums + gate * pitch + v * width;
        store(to, first || add ? found[gate][v] + load(to) : found[gate][v]);
      }
  }
}
