// What product() of product.h does first on ARM, where a multiply-add takes one of its factors from a lane: elements of A come in a
// vector at a time, and four vectors of a panel in one load. In floats the inner loop of a tile of 5 rows by 4 vectors is
// multiply-adds to 90 %.

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

// The product over the first k, as many as whole vectors of A have: that many.
template <typename T, int M, int N, bool kPacked>
CELL int64 product_by_lanes(int64 depth, const T* a, int64 row, const T* panel, typename Simd<T>::V (&sums)[M][N]) {
  constexpr int64 width = Simd<T>::width;
  int64 k = 0;
  for (; k + width <= depth; k += width) {
    typename Simd<T>::V vectors[M];  // of A, `width` k of M rows: a row each, or, packed, one k after the other
#pragma GCC unroll 16
    for (int n = 0; n < M; ++n) vectors[n] = load(kPacked ? a + k * M + n * width : a + n * row + k);
#pragma GCC unroll 4
    for (int lane = 0; lane < width; ++lane) {
      typename Simd<T>::V b[N];
      load_line(panel + (k + lane) * N * width, b);
#pragma GCC unroll 16
      for (int r = 0; r < M; ++r) {
        const int place = lane * M + r;
        const T scalar = kPacked ? vectors[place / width][place % width] : vectors[r][lane];
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) sums[r][v] += scalar * b[v];
      }
    }
  }
  return k;
}

template <typename T, int M, int N>
CELL int64 product_by_lanes(int64 depth, const T* a, int64 row, int64 column, const T* panel,
                           typename Simd<T>::V (&sums)[M][N]) {
  if (column == 1) return product_by_lanes<T, M, N, false>(depth, a, row, panel, sums);
  return row == 1 && column == M ? product_by_lanes<T, M, N, true>(depth, a, row, panel, sums) : 0;
}

#else  // product() does all

template <typename T, int M, int N>
CELL int64 product_by_lanes(int64, const T*, int64, int64, const T*, typename Simd<T>::V (&)[M][N]) {
  return 0;
}

#endif
