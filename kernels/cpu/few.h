// Few sequences: four panels at once, or two, where the sums of one are fewer than multiply-adds are in flight.

constexpr int64 kFew = TILE_VECTORS < 4 ? 3 : 2;  // rows up to which that is so

// through_panel() of M rows with four panels, `apart` from one another, N vectors of columns each, whose sums are `next`
// from one another: the same sums in the same order.
template <typename T, int M, int N = TILE_VECTORS>
__attribute__((noinline)) void rows_through_four(const T* a, int64 row, int64 depth, const T* panels, int64 apart,
                                                 int64 count, T* sums, bool add, int64 next, int64 pitch) {
  using V = typename Simd<T>::V;
  constexpr int64 width = Simd<T>::width;
  if constexpr (N > 1)
    if (count <= (N - 1) * width)
      return rows_through_four<T, M, N - 1>(a, row, depth, panels, apart, count, sums, add, next, pitch);
#ifdef WITH_NEON
  constexpr int kPanels = 2;  // at once: of four GCC loads more vectors than there are registers
#else
  constexpr int kPanels = M == 1 ? 4 : 2;
#endif
  for (int64 first = 0; first < depth; first += kDepth)
    for (int panel = 0; panel < 4; panel += kPanels) {
      V found[kPanels][M][N] = {};
      for (int64 k = first; k < least(first + kDepth, depth); ++k)
#pragma GCC unroll 4
        for (int n = 0; n < kPanels; ++n)
#pragma GCC unroll 4
          for (int v = 0; v < N; ++v) {
            const V b = load(panels + (panel + n) * apart + (k * N + v) * width);
#pragma GCC unroll 4
            for (int r = 0; r < M; ++r) found[n][r][v] += a[r * row + k] * b;
          }
      for (int n = 0; n < kPanels; ++n)
        for (int r = 0; r < M; ++r)
          for (int v = 0; v < N; ++v) {
            T* to = sums + (panel + n) * next + r * pitch + v * width;
            store(to, first || add ? found[n][r][v] + load(to) : found[n][r][v]);
          }
    }
}

// The same for up to kFew rows.
template <typename T>
void few_through_four(int64 rows, const T* a, int64 row, int64 depth, const T* panels, int64 apart, int64 count, T* sums,
                      bool add, int64 next, int64 pitch) {
  if (rows == 2) return rows_through_four<T, 2>(a, row, depth, panels, apart, count, sums, add, next, pitch);
  if constexpr (kFew > 2)
    if (rows == 3) return rows_through_four<T, 3>(a, row, depth, panels, apart, count, sums, add, next, pitch);
  rows_through_four<T, 1>(a, row, depth, panels, apart, count, sums, add, next, pitch);
}
