// Vectors of VECTOR_BYTES, and how elements of arrays come into them and go back: what the instruction sets differ in.
//
// Included once for each instruction set (set.h). T is float or double.

#define CELL static inline __attribute__((always_inline))

template <typename T>
struct Simd {
  typedef T V __attribute__((vector_size(VECTOR_BYTES)));
  typedef T Unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  typedef decltype(V{} < V{}) Bits;
  static constexpr int64 width = VECTOR_BYTES / sizeof(T);
  static constexpr int64 panel = TILE_VECTORS * width;
};

template <typename V, typename T>
CELL V splat(T value) {
  return V{} + value;
}

template <typename T, typename V>
CELL V quotient(V a, V b) {
  return a / b;
}

template <typename T, typename V>
CELL V multiply_add(V a, V b, V c) {
#if VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(WITH_NEON)
  if constexpr (sizeof(T) == 4) return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
  else return (V)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

template <typename T, typename V>
CELL V power_of_two(V t) {
  using Bits = typename Simd<T>::Bits;
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
  return (V)(((Bits)t << mantissa) + (Bits)splat<V>(T(1)));
}

#include "../cell/lstm_cell.h"

// All bits set in the first n elements.
template <typename T>
CELL typename Simd<T>::Bits first_of(int64 n) {
  typename Simd<T>::V index{};
  for (int k = 0; k < Simd<T>::width; ++k) index[k] = T(k);
  return index < splat<typename Simd<T>::V>(T(n));
}

template <typename T>
CELL typename Simd<T>::V load(const T* p) {
  return *(const typename Simd<T>::Unaligned*)p;
}

template <typename T>
CELL void store(T* p, typename Simd<T>::V v) {
  *(typename Simd<T>::Unaligned*)p = v;
}

// The first n elements, the others are 0: where the instruction set has masks, as fast as all of them.
template <typename T>
CELL typename Simd<T>::V load(const T* p, int64 n) {
  using V = typename Simd<T>::V;
  if (n >= Simd<T>::width) return load(p);
#if VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) return (V)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
  else return (V)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
#elif VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) return (V)_mm256_maskload_ps((const float*)p, (__m256i)first_of<T>(n));
  else return (V)_mm256_maskload_pd((const double*)p, (__m256i)first_of<T>(n));
#else
  V v{};
  for (int64 k = 0; k < n; ++k) v[k] = p[k];
  return v;
#endif
}

template <typename T>
CELL void store(T* p, typename Simd<T>::V v, int64 n) {
  if (n >= Simd<T>::width) return store(p, v);
#if VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
  else _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)v);
#elif VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) _mm256_maskstore_ps((float*)p, (__m256i)first_of<T>(n), (__m256)v);
  else _mm256_maskstore_pd((double*)p, (__m256i)first_of<T>(n), (__m256d)v);
#else
  for (int64 k = 0; k < n; ++k) p[k] = v[k];
#endif
}

template <typename T>
CELL T sum_of(typename Simd<T>::V v) {
  T total = 0;
  for (int64 k = 0; k < Simd<T>::width; ++k) total += v[k];
  return total;
}

// The four gates of the same units, `apart` elements from one another.
template <typename T>
CELL Gates<typename Simd<T>::V> load_gates(const T* p, int64 apart, int64 n) {
  return {load(p, n), load(p + apart, n), load(p + 2 * apart, n), load(p + 3 * apart, n)};
}

template <typename T>
CELL void store_gates(T* p, int64 apart, const Gates<typename Simd<T>::V>& gates, int64 n) {
  store(p, gates.i, n);
  store(p + apart, gates.f, n);
  store(p + 2 * apart, gates.g, n);
  store(p + 3 * apart, gates.o, n);
}

template <typename V>
CELL Gates<V> operator+(const Gates<V>& a, const Gates<V>& b) {
  return {a.i + b.i, a.f + b.f, a.g + b.g, a.o + b.o};
}
