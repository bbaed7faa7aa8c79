// One sequence alone: four panels at once, for the sums of one are fewer than multiply-adds are in flight.

// through_panel() of one row with four panels, `apart` from one another, N vectors of columns each, whose sums are `pitch`
// from one another: the same sums in the same order.
template <typename T, int N = TILE_VECTORS>
__attribute__((noinline)) void row_through_four(const T* a, long depth, const T* panels, long apart, long count, T* sums,
                                                bool add, long pitch) {
  using V = typename Simd<T>::V;
  constexpr long width = Simd<T>::width;
  if constexpr (N > 1)
    if (count <= (N - 1) * width) return row_through_four<T, N - 1>(a, depth, panels, apart, count, sums, add, pitch);
  for (long first = 0; first < depth; first += kDepth) {
    V found[4][N] = {};
    for (long k = first; k < least(first + kDepth, depth); ++k)
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n)
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) found[n][v] += a[k] * load(panels + n * apart + (k * N + v) * width);
    for (int n = 0; n < 4; ++n)
      for (int v = 0; v < N; ++v) {
        T* to = sums + n * pitch + v * width;
        store(to, first || add ? found[n][v] + load(to) : found[n][v]);
      }
  }
}
