// One sequence alone: four panels at once, for the sums of one are fewer than multiply-adds are in flight.

// through_panel() of one row with four panels, `apart` from one another, N vectors of columns each, whose sums are `pitch`
// from one another: the same sums in the same order.
template <typename T, int N = TILE_VECTORS>
__attribute__((noinline)) void row_through_four(const T* a, int64 depth, const T* panels, int64 apart, int64 count,
                                                T* sums, bool add, int64 pitch) {
  using V = typename Simd<T>::V;
  constexpr int64 width = Simd<T>::width;
  if constexpr (N > 1)
    if (count <= (N - 1) * width) return row_through_four<T, N - 1>(a, depth, panels, apart, count, sums, add, pitch);
#ifdef WITH_NEON
  constexpr int kPanels = 2;  // at once: of four GCC loads more vectors than there are registers
#else
  constexpr int kPanels = 4;
#endif
  for (int64 first = 0; first < depth; first += kDepth)
    for (int panel = 0; panel < 4; panel += kPanels) {
      V found[kPanels][N] = {};
      for (int64 k = first; k < least(first + kDepth, depth); ++k)
#pragma GCC unroll 4
        for (int n = 0; n < kPanels; ++n)
#pragma GCC unroll 4
          for (int v = 0; v < N; ++v) found[n][v] += a[k] * load(panels + (panel + n) * apart + (k * N + v) * width);
      for (int n = 0; n < kPanels; ++n)
        for (int v = 0; v < N; ++v) {
          T* to = sums + (panel + n) * pitch + v * width;
          store(to, first || add ? found[n][v] + load(to) : found[n][v]);
        }
    }
}
