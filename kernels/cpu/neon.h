// The products' inner loop on ARM, for product.h.
//
// There a multiply-add takes one of its factors from a lane: a row's elements come in a vector at a time, and four vectors
// of a panel in one load, so that the loop of a tile of 5 rows by 4 vectors is multiply-adds to 90 %, in floats.

#ifdef WITH_NEON

// A line of a panel.
template <typename T, typename V, int N>
CELL void load_line(const T* p, V (&line)[N]) {
  if constexpr (N == 4 && sizeof(T) == 4) {
    const auto all = vld1q_f32_x4(p);
    for (int v = 0; v < N; ++v) line[v] = (V)all.val[v];
  } else if constexpr (N == 4) {
    const auto all = vld1q_f64_x4(p);
    for (int v = 0; v < N; ++v) line[v] = (V)all.val[v];
  } else {
    for (int v = 0; v < N; ++v) line[v] = load(p + v * Simd<T>::width);
  }
}

// product() over the first k, as many as whole vectors of A's rows have: that many.
template <typename T, int M, int N>
CELL long product_by_lanes(long depth, const T* a, long row, const T* panel, typename Simd<T>::V (&sums)[M][N]) {
  using V = typename Simd<T>::V;
  constexpr long width = Simd<T>::width;
  long k = 0;
  for (; k + width <= depth; k += width) {
    V rows[M];
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) rows[r] = load(a + r * row + k);
#pragma GCC unroll 4
    for (int lane = 0; lane < width; ++lane) {
      V b[N];
      load_line(panel + (k + lane) * N * width, b);
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) sums[r][v] += rows[r][lane] * b[v];
    }
  }
  return k;
}

#else
template <typename T, int M, int N>
CELL long product_by_lanes(long, const T*, long, const T*, typename Simd<T>::V (&)[M][N]) {
  return 0;
}
#endif
