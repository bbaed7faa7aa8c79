// A square of a matrix transposed, by whole vectors: what packs a matrix by its columns.

// Blocks of d elements change places: those of a in whose place the bit d is set with those of b in whose it isn't.
template <typename T, int d, int... k>
CELL void exchange(typename Simd<T>::V& a, typename Simd<T>::V& b, std::integer_sequence<int, k...>) {
  constexpr int width = sizeof...(k);
#ifdef __clang__
  const auto low = __builtin_shufflevector(a, b, (k & d ? width + k - d : k)...);
  const auto high = __builtin_shufflevector(a, b, (k & d ? width + k : k + d)...);
#else
  using Places = typename Simd<T>::Bits;
  const auto low = __builtin_shuffle(a, b, Places{(k & d ? width + k - d : k)...});
  const auto high = __builtin_shuffle(a, b, Places{(k & d ? width + k : k + d)...});
#endif
  a = low;
  b = high;
}

// rows[j][k] and rows[k][j] change places.
template <typename T, int d = Simd<T>::width / 2>
CELL void transpose_in_place(typename Simd<T>::V (&rows)[Simd<T>::width]) {
#pragma GCC unroll 16
  for (int r = 0; r < Simd<T>::width; ++r)
    if (!(r & d)) exchange<T, d>(rows[r], rows[r + d], std::make_integer_sequence<int, Simd<T>::width>());
  if constexpr (d > 1) transpose_in_place<T, d / 2>(rows);
}

// to[k * wide + j] = from[j * row + k] for as many j and k as a vector has elements.
template <typename T>
CELL void transpose(const T* from, int64 row, T* to, int64 wide) {
  constexpr int64 width = Simd<T>::width;
  typename Simd<T>::V rows[width];
#pragma GCC unroll 16
  for (int64 j = 0; j < width; ++j) rows[j] = load(from + j * row);
  transpose_in_place<T>(rows);
#pragma GCC unroll 16
  for (int64 k = 0; k < width; ++k) store(to + k * wide, rows[k]);
}
