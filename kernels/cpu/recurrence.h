// The recurrence over a whole sequence, forward and backward, and the matrix products around it.
//
// Included once for each instruction set, inside a namespace, with VECTOR_BYTES and TILE_ROWS defined.
// T is float or double. Arrays are those of gpu_lstm/recurrence/problem.py:
//   z, gates, dz (T, B, 4H)    h, c (T+1, B, H)    weight_hh (4H, H)    gate order i, f, g, o
//
// The one inner loop is `product`: up to TILE_ROWS rows times a panel of up to 4 vectors, all sums in registers.
// Forward, the 4 vectors of a panel are the four gates of the same hidden units, so that a cell is finished before
// anything goes back to memory. Backward, they are 4 vectors of hidden units.

#define CELL static inline __attribute__((always_inline))

template <typename T>
struct Simd {
  typedef T V __attribute__((vector_size(VECTOR_BYTES)));
  typedef T Unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  typedef decltype(V{} < V{}) Bits;
  static constexpr long width = VECTOR_BYTES / sizeof(T);
  static constexpr long panel = 4 * width;
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
#elif defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF)
  for (long k = 0; k < Simd<T>::width; ++k)
    c[k] = sizeof(T) == 4 ? __builtin_fmaf(a[k], b[k], c[k]) : __builtin_fma(a[k], b[k], c[k]);
  return c;
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
CELL typename Simd<T>::Bits first_of(long n) {
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

// Fewer elements than a vector has: where the instruction set has masks, as fast as all of them.
template <typename T>
CELL typename Simd<T>::V load_part(const T* p, long n) {
  using V = typename Simd<T>::V;
#if VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) return (V)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
  else return (V)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
#elif VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) return (V)_mm256_maskload_ps((const float*)p, (__m256i)first_of<T>(n));
  else return (V)_mm256_maskload_pd((const double*)p, (__m256i)first_of<T>(n));
#else
  V v{};
  for (long k = 0; k < n; ++k) v[k] = p[k];
  return v;
#endif
}

template <typename T>
CELL void store_part(T* p, typename Simd<T>::V v, long n) {
#if VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
  else _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)v);
#elif VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) _mm256_maskstore_ps((float*)p, (__m256i)first_of<T>(n), (__m256)v);
  else _mm256_maskstore_pd((double*)p, (__m256i)first_of<T>(n), (__m256d)v);
#else
  for (long k = 0; k < n; ++k) p[k] = v[k];
#endif
}

// The first n elements; the others are 0.
template <typename T>
CELL typename Simd<T>::V load(const T* p, long n) {
  return n >= Simd<T>::width ? load(p) : load_part(p, n);
}

template <typename T>
CELL void store(T* p, typename Simd<T>::V v, long n) {
  if (n >= Simd<T>::width) store(p, v);
  else store_part(p, v, n);
}

template <typename T>
CELL T sum_of(typename Simd<T>::V v) {
  T total = 0;
  for (long k = 0; k < Simd<T>::width; ++k) total += v[k];
  return total;
}

// The four gates of the same units, `apart` elements from one another.
template <typename T>
CELL Gates<typename Simd<T>::V> load_gates(const T* p, long apart, long n) {
  return {load(p, n), load(p + apart, n), load(p + 2 * apart, n), load(p + 3 * apart, n)};
}

template <typename T>
CELL void store_gates(T* p, long apart, const Gates<typename Simd<T>::V>& gates, long n) {
  store(p, gates.i, n);
  store(p + apart, gates.f, n);
  store(p + 2 * apart, gates.g, n);
  store(p + 3 * apart, gates.o, n);
}

// sums[r][v] += sum over k of a[r * row + k * column] * panel[(k * N + v) * width ...]
template <typename T, int M, int N>
CELL void product(long depth, const T* a, long row, long column, const T* panel, typename Simd<T>::V (&sums)[M][N]) {
  for (long k = 0; k < depth; ++k) {
    typename Simd<T>::V b[N];
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) b[v] = load(panel + (k * N + v) * Simd<T>::width);
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) {
      const T scalar = a[r * row + k * column];
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) sums[r][v] += scalar * b[v];
    }
  }
}

// How many rows the next tile takes of those left: even tiles rather than a full one and a remainder of one.
inline long tile_rows(long left) {
  if (left >= 2 * TILE_ROWS || left <= TILE_ROWS) return left < TILE_ROWS ? left : TILE_ROWS;
  return (left + 1) / 2;
}

// Calls tile.run<M>(first row) for tiles that cover `rows` rows.
template <typename Tile>
CELL void for_tiles(long rows, const Tile& tile) {
  for (long r = 0; r < rows;) {
    const long m = tile_rows(rows - r);
    switch (m) {
      case 1: tile.template run<1>(r); break;
      case 2: tile.template run<2>(r); break;
      case 3: tile.template run<3>(r); break;
#if TILE_ROWS > 3
      case 4: tile.template run<4>(r); break;
      case 5: tile.template run<5>(r); break;
      case 6: tile.template run<6>(r); break;
#endif
    }
    r += m;
  }
}

inline long divide_up(long a, long b) { return (a + b - 1) / b; }

// ------------------------------------------------------------------------------------------------ matrix products

// Rows of A times one panel, into a matrix in memory. `columns` of the panel's N vectors are real.
enum Start { kZero, kAdd, kBias };

template <typename T, int N>
struct ProductTile {
  const T* a;
  long row, column, depth;  // A(r, k) = a[r * row + k * column]
  const T* panel;
  T* to;
  long pitch, columns;
  Start start;
  const T* bias;

  template <int M>
  void run(long r0) const {
    constexpr long wide = N * Simd<T>::width;
    const T* rows_of_a = a + r0 * row;
    T* rows_of_c = to + r0 * pitch;
    if (columns == wide) {
      whole<M>(rows_of_a, rows_of_c, pitch, start);
      return;
    }
    T sums[M * wide];
    whole<M>(rows_of_a, sums, wide, kZero);
    for (long r = 0; r < M; ++r)
      for (long j = 0; j < columns; ++j) {
        T* p = rows_of_c + r * pitch + j;
        *p = sums[r * wide + j] + (start == kAdd ? *p : start == kBias ? bias[j] : T(0));
      }
  }

  // Alone in its function, so that all sums stay in registers.
  template <int M>
  __attribute__((noinline)) void whole(const T* rows_of_a, T* rows_of_c, long pitch_of_c, Start start_with) const {
    using V = typename Simd<T>::V;
    constexpr long width = Simd<T>::width;
    V sums[M][N];
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) sums[r][v] = V{};
    product<T, M, N>(depth, rows_of_a, row, column, panel, sums);
    if (start_with != kZero) {
      const T* first = start_with == kAdd ? rows_of_c : bias;
      const long step = start_with == kAdd ? pitch_of_c : 0;
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) sums[r][v] += load(first + r * step + v * width);
    }
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) store(rows_of_c + r * pitch_of_c + v * width, sums[r][v]);
  }
};

// The same with the number of vectors known at run time only.
template <typename T>
void add_product(long rows, const T* a, long row, long column, long depth, const T* panel, T* to, long pitch,
                 long columns, Start start, const T* bias = nullptr) {
  switch (divide_up(columns, Simd<T>::width)) {
    case 1: return for_tiles(rows, ProductTile<T, 1>{a, row, column, depth, panel, to, pitch, columns, start, bias});
    case 2: return for_tiles(rows, ProductTile<T, 2>{a, row, column, depth, panel, to, pitch, columns, start, bias});
    case 3: return for_tiles(rows, ProductTile<T, 3>{a, row, column, depth, panel, to, pitch, columns, start, bias});
    default: return for_tiles(rows, ProductTile<T, 4>{a, row, column, depth, panel, to, pitch, columns, start, bias});
  }
}

// C (rows, columns) = A (rows, depth) B (depth, columns) [+ bias (columns)] for one or two B with the same A, and the
// sums of A's rows; A and B with any strides.
// The threads split the rows of C. One slab of the depth at a time, B is packed into panels: by each thread for itself
// where it has many rows to use them for, else by all together. Rows of A are packed too.
template <typename T>
struct Factor {
  const T* b;
  long row, column;  // B(k, j) = b[k * row + j * column]
  long columns;
  T* c;  // (rows, columns), contiguous

  long blocks() const { return divide_up(columns, Simd<T>::panel); }
};

template <typename T>
struct Product {
  long rows, depth;
  const T* a;
  long a_row, a_column;
  Factor<T> factors[2];
  int count;      // of factors
  const T* bias;  // (columns,) of the first, or null
  T* sums;        // (rows,): of A's rows, or null
  T* panels;      // (up to kBlocks, kSlab, panel) of all threads, or of each
  T* packed;      // (kRows, kPitch) of each thread

  static constexpr long kSlab = 256, kRows = 32 * TILE_ROWS;
  static constexpr long kOwnRows = 96;  // from here on, packing B once more costs less than waiting for others
  static constexpr long kPitch = kSlab + 16;  // not a multiple of a page: rows would share the same cache sets
  static constexpr long kPanel = kSlab * Simd<T>::panel;
  static constexpr long kBlocks = 2048 / Simd<T>::panel;  // that many columns are packed at a time

  long blocks() const { return factors[0].blocks() + (count > 1 ? factors[1].blocks() : 0); }
  long panels_size() const { return (blocks() < kBlocks ? blocks() : kBlocks) * kPanel; }
  bool alone(long members) const { return rows >= kOwnRows * members; }
  // Threads that may have panels of their own, of so many: fewer than are asked for may come.
  long owners(long threads) const {
    const long most = rows / kOwnRows < threads ? rows / kOwnRows : threads;
    return most > 1 ? most : 1;
  }

  // Block `n` of all factors' blocks: its factor, the first of its columns.
  const Factor<T>& factor(long n, long& first) const {
    const long before = n < factors[0].blocks() ? 0 : factors[0].blocks();
    first = (n - before) * Simd<T>::panel;
    return factors[before ? 1 : 0];
  }

  void pack(T* to, long block, long k0, long slab) const {
    constexpr long width = Simd<T>::width;
    long first;
    const Factor<T>& f = factor(block, first);
    const long left = f.columns - first;
    const long wide = left < Simd<T>::panel ? divide_up(left, width) * width : Simd<T>::panel;
    const long valid = left < wide ? left : wide;
    const T* from = f.b + k0 * f.row + first * f.column;
    if (f.column == 1) {
      for (long k = 0; k < slab; ++k) {
        for (long j = 0; j < valid; ++j) to[k * wide + j] = from[k * f.row + j];
        for (long j = valid; j < wide; ++j) to[k * wide + j] = 0;
      }
      return;
    }
    // A few k at a time, so that the lines read and the lines written both stay in the first cache.
    for (long k1 = 0; k1 < slab; k1 += 16) {
      const long end = k1 + 16 < slab ? k1 + 16 : slab;
      for (long j = 0; j < wide; ++j)
        for (long k = k1; k < end; ++k) to[k * wide + j] = j < valid ? from[k * f.row + j * f.column] : T(0);
    }
  }

  // Row r, column k of the result is at r * row + k * column.
  void pack_rows(const T* from, long n, long slab, T* to, long& row, long& column) const {
    if (a_column == 1) {
      row = kPitch, column = 1;
      for (long r = 0; r < n; ++r)
        for (long k = 0; k < slab; ++k) to[r * row + k] = from[r * a_row + k];
    } else {
      row = 1, column = kRows;
      for (long k = 0; k < slab; ++k)
        for (long r = 0; r < n; ++r) to[k * column + r] = from[r * a_row + k * a_column];
    }
  }

  // Slab by slab, so that the rounding errors of long sums stay small.
  void add_sums(const T* packed, long row, long column, long r0, long n, long slab, bool first) const {
    T partial[kRows] = {};
    for (long k = 0; k < slab; ++k)
      for (long r = 0; r < n; ++r) partial[r] += packed[r * row + k * column];
    for (long r = 0; r < n; ++r) sums[r0 + r] = (first ? T(0) : sums[r0 + r]) + partial[r];
  }

  void run(int member, int members, Barrier& barrier) const {
    for (long first = 0; first < blocks(); first += kBlocks)
      run_blocks({first, first + kBlocks < blocks() ? first + kBlocks : blocks()}, member, members, barrier);
  }

  void run_blocks(Range part, int member, int members, Barrier& barrier) const {
    const Range mine = share(rows, member, members);
    const bool own = alone(members);
    const Range packing = own ? Range{0, part.end - part.begin} : share(part.end - part.begin, member, members);
    T* to = panels + (own ? member * panels_size() : 0);
    T* rows_of_a = packed + member * kRows * kPitch;
    for (long k0 = 0; k0 < depth; k0 += kSlab) {
      const long slab = depth - k0 < kSlab ? depth - k0 : kSlab;
      if ((k0 || part.begin) && !own) barrier.wait();
      for (long n = packing.begin; n < packing.end; ++n) pack(to + n * kPanel, part.begin + n, k0, slab);
      if (!own) barrier.wait();
      for (long r0 = mine.begin; r0 < mine.end; r0 += kRows) {
        const long n = mine.end - r0 < kRows ? mine.end - r0 : kRows;
        long row, column;
        pack_rows(a + r0 * a_row + k0 * a_column, n, slab, rows_of_a, row, column);
        if (sums && part.begin == 0) add_sums(rows_of_a, row, column, r0, n, slab, k0 == 0);
        for (long block = part.begin; block < part.end; ++block) {
          long first;
          const Factor<T>& f = factor(block, first);
          const long left = f.columns - first;
          add_product<T>(n, rows_of_a, row, column, slab, to + (block - part.begin) * kPanel,
                         f.c + r0 * f.columns + first, f.columns, left < Simd<T>::panel ? left : Simd<T>::panel,
                         k0 ? kAdd : bias ? kBias : kZero, bias ? bias + first : nullptr);
        }
      }
    }
  }
};

// ---------------------------------------------------------------------------------------------------- forward

// The rows of a (4H, depth) matrix that make the four gates of one block of units, as [k][gate][unit].
template <typename T>
void pack_gates(const T* weight, long hidden, long depth, long block, T* to) {
  constexpr long width = Simd<T>::width;
  // A few k at a time, so that the lines read and the lines written both stay in the first cache.
  for (long k1 = 0; k1 < depth; k1 += 16) {
    const long end = k1 + 16 < depth ? k1 + 16 : depth;
    for (long gate = 0; gate < 4; ++gate)
      for (long unit = 0; unit < width; ++unit) {
        const long row = block * width + unit;
        const T* from = weight + (gate * hidden + row) * depth;
        for (long k = k1; k < end; ++k) to[(k * 4 + gate) * width + unit] = row < hidden ? from[k] : T(0);
      }
  }
}

template <typename T>
struct Forward {
  long steps, batch, hidden;
  T *z, *h, *c;       // c has one slot only where keep is false
  const T* weight;    // (4H, H)
  const long* lengths;  // (B,) or null
  bool reverse, keep;
  T* panels;  // blocks of `width` hidden units: [block][k][gate][unit]
  T* own;     // of each thread: nothing

  long blocks() const { return divide_up(hidden, Simd<T>::width); }
  long panel_size() const { return hidden * Simd<T>::panel; }
  long panels_size() const { return blocks() * panel_size(); }
  long own_size() const { return 0; }

  void pack(long block) const { pack_gates(weight, hidden, hidden, block, panels + block * panel_size()); }

  struct Tile {
    const Forward& p;
    long t, before, after, block;
    long row0;

    template <int M>
    __attribute__((noinline)) void run(long r0) const {
      using V = typename Simd<T>::V;
      constexpr long width = Simd<T>::width;
      const long H = p.hidden, first = row0 + r0, units = H - block * width;
      V sums[M][4];
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
        for (int gate = 0; gate < 4; ++gate) {
          sums[r][gate] = V{};
          // z comes from memory or the last cache: asked for now, it is there when the product is done.
          __builtin_prefetch(p.z + ((t * p.batch + first + r) * 4 + gate) * H + block * width, 1);
        }
      product<T, M, 4>(H, p.h + (before * p.batch + first) * H, H, 1, p.panels + block * p.panel_size(), sums);
      const long slot_before = p.keep ? before : 0, slot = p.keep ? after : 0;
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r) {
        const long b = first + r, unit = block * width;
        T* z = p.z + (t * p.batch + b) * 4 * H + unit;
        const T* c_before = p.c + (slot_before * p.batch + b) * H + unit;
        auto gates = load_gates(z, H, units);
        gates = {gates.i + sums[r][0], gates.f + sums[r][1], gates.g + sums[r][2], gates.o + sums[r][3]};
        V c, h;
        cell_forward<T>(gates, load(c_before, units), c, h);
        if (p.lengths && t >= p.lengths[b]) {
          c = load(c_before, units);
          h = load(p.h + (before * p.batch + b) * H + unit, units);
        }
        if (p.keep) store_gates(z, H, gates, units);
        store(p.c + (slot * p.batch + b) * H + unit, c, units);
        store(p.h + (after * p.batch + b) * H + unit, h, units);
      }
    }
  };

  void run(int member, int members, Barrier& barrier, bool split_batch) const {
    const Range mine = share(blocks(), member, members);
    for (long block = mine.begin; block < mine.end; ++block) pack(block);
    barrier.wait();
    const Range rows = split_batch ? share(batch, member, members) : Range{0, batch};
    const Range units = split_batch ? Range{0, blocks()} : mine;
    for (long n = 0; n < steps; ++n) {
      const long t = reverse ? steps - 1 - n : n;
      for (long block = units.begin; block < units.end; ++block)
        for_tiles(rows.end - rows.begin, Tile{*this, t, reverse ? t + 1 : t, reverse ? t : t + 1, block, rows.begin});
      if (!split_batch) barrier.wait();
    }
  }
};

// ---------------------------------------------------------------------------------------------------- backward

template <typename T>
struct Backward {
  long steps, batch, hidden;
  T* gates;  // become dz
  const T *h, *c, *weight;
  const T* dy;  // (T, B, H), rows dy_row elements apart; or null
  long dy_row;
  const long* lengths;
  bool reverse;
  T *dh, *dc;  // (B, H): at first of the final state, at last of the initial one
  T* panels;   // blocks of up to 4 vectors of hidden units: [block][k = 4H][unit]
  T* own;      // own_size() of each thread

  static constexpr long kDepth = 512;  // rows of a panel that stay in cache while all rows of the batch pass by

  long blocks() const { return divide_up(hidden, Simd<T>::panel); }
  long panels_size() const { return blocks() * 4 * hidden * Simd<T>::panel; }
  long own_size() const { return batch * Simd<T>::panel; }
  int vectors(long block) const {
    const long left = divide_up(hidden - block * Simd<T>::panel, Simd<T>::width);
    return left < 4 ? int(left) : 4;
  }

  void pack(long block) const {
    constexpr long panel = Simd<T>::panel;
    const long wide = vectors(block) * Simd<T>::width, first = block * panel;
    const long valid = hidden - first < wide ? hidden - first : wide;
    T* to = panels + block * 4 * hidden * panel;
    for (long k = 0; k < 4 * hidden; ++k) {
      const T* from = weight + k * hidden + first;
      for (long unit = 0; unit < valid; ++unit) to[k * wide + unit] = from[unit];
      for (long unit = valid; unit < wide; ++unit) to[k * wide + unit] = 0;
    }
  }

  bool valid(long t, long b) const { return !lengths || t < lengths[b]; }

  // sums (rows, panel) = dz of step t times a block of weight_hh.
  void through_weight(long t, long block, Range rows, T* sums) const {
    constexpr long panel = Simd<T>::panel;
    const long n = rows.end - rows.begin, wide = vectors(block) * Simd<T>::width;
    const T* a = gates + (t * batch + rows.begin) * 4 * hidden;
    for (long k = 0; k < 4 * hidden; k += kDepth) {
      const long depth = 4 * hidden - k < kDepth ? 4 * hidden - k : kDepth;
      add_product<T>(n, a + k, 4 * hidden, 1, depth, panels + block * 4 * hidden * panel + k * wide, sums, panel, wide,
                     k ? kAdd : kZero);
    }
  }

  // What arrives at h before step `from` (-1: at the end): through the weights, or as it was where the sequence has
  // no such step.
  void cells(long t, long from, long block, Range rows, const T* sums) const {
    using V = typename Simd<T>::V;
    constexpr long width = Simd<T>::width, panel = Simd<T>::panel;
    const long H = hidden, before = reverse ? t + 1 : t, after = reverse ? t : t + 1;
    for (long b = rows.begin; b < rows.end; ++b) {
      const bool through = from >= 0 && valid(from, b), here = valid(t, b);
      for (long unit = block * panel; unit < H && unit < (block + 1) * panel; unit += width) {
        const long left = H - unit;
        T* kept = dh + b * H + unit;
        V arrived = through ? load(sums + (b - rows.begin) * panel + unit - block * panel) : load(kept, left);
        T* z = gates + (t * batch + b) * 4 * H + unit;
        Gates<V> dz{};
        if (here) {
          if (dy) arrived += load(dy + (t * batch + b) * dy_row + unit, left);
          dz = load_gates(z, H, left);
          V carried = load(dc + b * H + unit, left);
          cell_backward<T>(dz, load(c + (before * batch + b) * H + unit, left),
                           load(c + (after * batch + b) * H + unit, left), arrived, carried);
          store(dc + b * H + unit, carried, left);
        } else {
          store(kept, arrived, left);
        }
        store_gates(z, H, dz, left);
      }
    }
  }

  void run(int member, int members, Barrier& barrier, bool split_batch) const {
    using V = typename Simd<T>::V;
    const Range mine = share(blocks(), member, members);
    for (long block = mine.begin; block < mine.end; ++block) pack(block);
    barrier.wait();
    const Range rows = split_batch ? share(batch, member, members) : Range{0, batch};
    const Range units = split_batch ? Range{0, blocks()} : mine;
    constexpr long panel = Simd<T>::panel;
    T* sums = own + member * own_size();
    long from = -1;
    for (long n = 0; n < steps; ++n) {
      const long t = reverse ? n : steps - 1 - n;
      for (long block = units.begin; block < units.end; ++block) {
        if (from >= 0) through_weight(from, block, rows, sums);
        cells(t, from, block, rows, sums);
      }
      if (!split_batch) barrier.wait();
      from = t;
    }
    for (long block = units.begin; block < units.end; ++block) {
      through_weight(from, block, rows, sums);
      for (long b = rows.begin; b < rows.end; ++b)
        if (valid(from, b))
          for (long unit = block * panel; unit < hidden && unit < (block + 1) * panel; unit += Simd<T>::width) {
            const V arrived = load(sums + (b - rows.begin) * panel + unit - block * panel);
            store(dh + b * hidden + unit, arrived, hidden - unit);
          }
    }
  }
};

// ---------------------------------------------------------------------------------------------------- entries

// One recurrence, on so many threads.
template <typename T, typename Problem>
void run_one(Problem p, long steps, long threads, bool split_batch) {
  if (steps == 0) return;
  p.panels = scratch<T>(p.panels_size() + threads * p.own_size());
  p.own = p.panels + p.panels_size();
  Team::run(int(threads), [&](int member, int members, Barrier& barrier) {
    p.run(member, members, barrier, split_batch);
  });
}

// Two of the same size at once, each on half of the threads.
template <typename T, typename Problem>
void run_both(Problem (&&two)[2], long steps, long threads, bool split_batch) {
  if (steps == 0) return;
  const long size = two[0].panels_size() + threads * two[0].own_size();
  T* memory = scratch<T>(2 * size);
  for (int part : {0, 1}) {
    two[part].panels = memory + part * size;
    two[part].own = two[part].panels + two[part].panels_size();
  }
  Team::run_both(int(threads), [&](int part, int member, int members, Barrier& barrier) {
    two[part].run(member, members, barrier, split_batch);
  });
}

template <typename T>
void multiply(Product<T> p, long threads) {
  if (p.depth == 0) {  // sums of nothing
    for (int n = 0; n < p.count; ++n) {
      const Factor<T>& f = p.factors[n];
      for (long k = 0; k < p.rows * f.columns; ++k) f.c[k] = p.bias ? p.bias[k % f.columns] : T(0);
    }
    for (long row = 0; p.sums && row < p.rows; ++row) p.sums[row] = 0;
    return;
  }
  const long panels = p.owners(threads) * p.panels_size();
  p.panels = scratch<T>(panels + threads * Product<T>::kRows * Product<T>::kPitch);
  p.packed = p.panels + panels;
  run_on(threads, p);
}

// Element-wise activations, for tests of their error.
template <typename T>
void activate(bool tanh_instead, long count, const T* x, T* y) {
  for (long k = 0; k < count; k += Simd<T>::width) {
    const auto v = load(x + k, count - k);
    store(y + k, tanh_instead ? tanh_of<T>(v) : sigmoid<T>(v), count - k);
  }
}

