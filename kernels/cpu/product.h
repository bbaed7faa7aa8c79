// Matrix products: one inner loop over register tiles, and what is made of it.
//
// Included once for each instruction set (set.h). A tile has up to TILE_ROWS rows by a panel of up to TILE_VECTORS
// vectors; its sums stay in registers, so rows * vectors, and the vectors of the panel, must fit into them.

inline int64 divide_up(int64 a, int64 b) { return (a + b - 1) / b; }
inline int64 least(int64 a, int64 b) { return a < b ? a : b; }

// sums[r][v] += sum over k of a[r * row + k * column] * panel[(k * N + v) * width ...]
template <typename T, int M, int N>
CELL void product(int64 depth, const T* a, int64 row, int64 column, const T* panel, typename Simd<T>::V (&sums)[M][N]) {
#pragma GCC unroll 4
  for (int64 k = product_by_lanes<T, M, N>(depth, a, row, column, panel, sums); k < depth; ++k) {
    typename Simd<T>::V b[N];
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) b[v] = load(panel + (k * N + v) * Simd<T>::width);
#ifdef WITH_X86
    if constexpr (M == 2) for (auto& v : b) asm("" : "+v"(v));  // of two uses GCC would make two loads
#endif
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r) {
      const T scalar = a[r * row + k * column];
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) sums[r][v] += scalar * b[v];
    }
  }
}

// Calls tile.run<M>(r) for m <= M rows from row r on.
template <int M, typename Tile>
CELL void run_tile(int64 m, int64 r, const Tile& tile) {
  if constexpr (M > 1)
    if (m < M) return run_tile<M - 1>(m, r, tile);
  tile.template run<M>(r);
}

// The same for tiles that cover `rows` rows: even tiles rather than a full one and a remainder of one.
template <typename Tile>
CELL void for_tiles(int64 rows, const Tile& tile) {
  for (int64 r = 0, m; r < rows; r += m) {
    const int64 left = rows - r;
    m = left >= 2 * TILE_ROWS ? TILE_ROWS : left > TILE_ROWS ? (left + 1) / 2 : left;
    run_tile<TILE_ROWS>(m, r, tile);
  }
}

// Rows of A times one panel, into a matrix in memory. `columns` of the panel are real.
template <typename T>
struct PanelProduct {
  const T* a;
  int64 row, depth;  // A(r, k) = a[r * row + k], or those of each tile packed as [k][r]
  const T* panel;
  T* to;
  int64 pitch, columns;
  const T* first;  // what is added to the sums, rows `step` elements apart; or null
  int64 step;
};

template <typename T, bool kPacked, int N>
struct ProductTile : PanelProduct<T> {
  template <int M>
  void run(int64 r0) const {
    constexpr int64 wide = N * Simd<T>::width;
    const T *rows_of_a = this->a + r0 * this->row, *add = this->first ? this->first + r0 * this->step : nullptr;
    T* c = this->to + r0 * this->pitch;
    if (this->columns == wide) return whole<M>(rows_of_a, c, this->pitch, add, this->step);
    T sums[M * wide];
    whole<M>(rows_of_a, sums, wide, nullptr, 0);
    for (int64 r = 0; r < M; ++r)
      for (int64 j = 0; j < this->columns; ++j)
        c[r * this->pitch + j] = sums[r * wide + j] + (add ? add[r * this->step + j] : T(0));
  }

  // Alone in its function, so that all sums stay in registers.
  template <int M>
  __attribute__((noinline)) void whole(const T* rows_of_a, T* c, int64 pitch, const T* add, int64 step) const {
    constexpr int64 width = Simd<T>::width;
    typename Simd<T>::V sums[M][N];
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) {
        sums[r][v] = typename Simd<T>::V{};
        __builtin_prefetch(c + r * pitch + v * width, 1);  // it is there when the product is done
      }
    product<T, M, N>(this->depth, rows_of_a, kPacked ? 1 : this->row, kPacked ? M : 1, this->panel, sums);
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v)
        store(c + r * pitch + v * width, add ? sums[r][v] + load(add + r * step + v * width) : sums[r][v]);
  }
};

template <typename T, bool kPacked = false, int N = TILE_VECTORS>
void add_product(int64 rows, const PanelProduct<T>& of) {
  if constexpr (N > 1)
    if (of.columns <= (N - 1) * Simd<T>::width) return add_product<T, kPacked, N - 1>(rows, of);
  for_tiles(rows, ProductTile<T, kPacked, N>{of});
}

// `count` columns and what fills the last vector of a panel with zeros.
template <typename T>
int64 whole_vectors(int64 count) {
  return divide_up(count, Simd<T>::width) * Simd<T>::width;
}

// B(k, j) = from[k * row + j * column] for `depth` k and `count` j, as a panel of whole vectors.
template <typename T>
void pack_panel(const T* from, int64 row, int64 column, int64 depth, int64 count, T* to) {
  constexpr int64 width = Simd<T>::width;
  const int64 wide = whole_vectors<T>(count);
  if (column == 1) {
    for (int64 k = 0; k < depth; ++k)
      for (int64 j = 0; j < wide; j += width) store(to + k * wide + j, load(from + k * row + j, count - j));
    return;
  }
  // A few k at a time, so that the lines read and the lines written both stay in the first cache.
  for (int64 k = 0; k < depth; k += width)
    for (int64 j1 = 0; j1 < wide; j1 += width)
      if (row == 1 && k + width <= depth && j1 + width <= count)
        transpose(from + k + j1 * column, column, to + k * wide + j1, wide);
      else
        for (int64 j = j1; j < j1 + width; ++j)
          for (int64 n = k; n < least(k + width, depth); ++n) to[n * wide + j] = j < count ? from[n * row + j * column] : T(0);
}

// sums, rows `pitch` elements apart, (+)= rows of A, `row` elements apart, times a panel of `count` columns, a part of the
// depth that stays in cache at a time.
constexpr int64 kDepth = 512;
template <typename T>
void through_panel(int64 rows, const T* a, int64 row, int64 depth, const T* panel, int64 count, T* sums,
                   bool add = false, int64 pitch = Simd<T>::panel) {
  const int64 wide = whole_vectors<T>(count);
  for (int64 k = 0; k < depth; k += kDepth) {
    const int64 part = least(depth - k, kDepth);
    add_product<T>(rows, {a + k, row, part, panel + k * wide, sums, pitch, wide, k || add ? sums : nullptr, pitch});
  }
}

// C (rows, columns) = A (rows, depth) B (depth, columns) [+ bias (columns)] for one or two B with the same A, and the
// sums of A's rows; A and B with any strides.
// The threads split the rows of C. One slab of the depth at a time, B is packed into panels: by each thread for itself
// where it has many rows to use them for, else by all together. A is read where it lies if that is row by row and these
// are not so far apart that they share sets of a cache; else packed, tile by tile if it isn't row by row.
template <typename T>
struct Factor {
  const T* b;
  int64 row, column;  // B(k, j) = b[k * row + j * column]
  int64 columns;
  T* c;  // (rows, columns), contiguous

  int64 blocks() const { return divide_up(columns, Simd<T>::panel); }
};

template <typename T>
struct Product {
  int64 rows, depth;
  const T* a;
  int64 a_row, a_column;
  Factor<T> factors[2];
  int count;                // of factors
  const T* bias = nullptr;  // (columns,) of the first, or null
  T* sums = nullptr;        // (rows,): of A's rows, or null
  const T* kept = nullptr;  // all panels of the one factor, slab by slab, where another call has made them; or null
  T* panels = nullptr;      // (up to kBlocks, kSlab, panel) of all threads, or of each
  T* packed = nullptr;      // (kRows, kPitch) of each thread

  static constexpr int64 kSlab = 2048 / sizeof(T), kRows = 16 * TILE_ROWS;
  static constexpr int64 kOwnRows = 96;  // from here on, packing B once more costs less than waiting for others
  static constexpr int64 kPitch = kSlab + 16;  // not a multiple of a page: rows would share the same cache sets
  static constexpr int64 kPanel = kSlab * Simd<T>::panel;
  static constexpr int64 kBlocks = 2048 / Simd<T>::panel;  // that many columns are packed at a time

  int64 blocks() const { return factors[0].blocks() + (count > 1 ? factors[1].blocks() : 0); }
  int64 panels_size() const { return least(blocks(), kBlocks) * kPanel; }
  bool alone(int64 members) const { return kept || rows >= kOwnRows * members; }
  // Threads that may have panels of their own, of so many: fewer than are asked for may come.
  int64 owners(int64 threads) const {
    const int64 most = least(rows / kOwnRows, threads);
    return most > 1 ? most : 1;
  }

  // The columns that panel n takes, of the panels of all factors.
  struct Block {
    const Factor<T>& of;
    int64 first, count;
  };
  Block block(int64 n) const {
    const int64 before = n < factors[0].blocks() ? 0 : factors[0].blocks(), first = (n - before) * Simd<T>::panel;
    const Factor<T>& f = factors[before ? 1 : 0];
    return {f, first, least(f.columns - first, Simd<T>::panel)};
  }

  void pack(T* to, int64 n, int64 k0, int64 slab) const {
    const auto& [f, first, count] = block(n);
    pack_panel(f.b + k0 * f.row + first * f.column, f.row, f.column, slab, count, to);
  }

  // Some k of a tile's rows, for PanelProduct.
  struct PackedRows {
    const T* from;
    int64 row, column, count;
    T* to;
    int64 first;

    template <int M>
    void run(int64 r) const {
      T* tile = to + r * kPitch + first * M;
      for (int64 k = 0; k < count; ++k, tile += M) {
        const T* rows_of_a = from + r * row + k * column;
        if (row == 1) std::memcpy(tile, rows_of_a, M * sizeof(T));
        else
          for (int64 i = 0; i < M; ++i) tile[i] = rows_of_a[i * row];
      }
    }
  };

  // Slab by slab, so that the rounding errors of long sums stay small.
  void add_sums(const T* from, int64 r0, int64 n, int64 slab, bool first) const {
    T partial[kRows] = {};
    for (int64 k = 0; k < slab; ++k)
      for (int64 r = 0; r < n; ++r) partial[r] += from[r * a_row + k * a_column];
    for (int64 r = 0; r < n; ++r) sums[r0 + r] = (first ? T(0) : sums[r0 + r]) + partial[r];
  }

  void run(int member, int members, Barrier& barrier) const {
    for (int64 first = 0, most = kept ? blocks() : kBlocks; first < blocks(); first += most)
      run_blocks({first, least(first + most, blocks())}, member, members, barrier);
  }

  void run_blocks(Range part, int member, int members, Barrier& barrier) const {
    const bool own = alone(members), by_columns = kept && rows < kOwnRows * members;
    const Range mine = by_columns ? Range{0, rows} : share(rows, member, members);
    if (by_columns) part = share(blocks(), member, members);
    const Range packing = kept ? Range{} : own ? Range{0, part.end - part.begin} : share(part.end - part.begin, member, members);
    T* to = panels + (own ? member * panels_size() : 0);
    T* tiles = packed + member * kRows * kPitch;
    for (int64 k0 = 0; k0 < depth; k0 += kSlab) {
      const int64 slab = least(depth - k0, kSlab);
      if ((k0 || part.begin) && !own) barrier.wait();
      for (int64 n = packing.begin; n < packing.end; ++n) pack(to + n * kPanel, part.begin + n, k0, slab);
      if (!own) barrier.wait();
      for (int64 r0 = mine.begin; r0 < mine.end; r0 += kRows) {
        const int64 n = least(mine.end - r0, kRows);
        const T* rows_of_a = a + r0 * a_row + k0 * a_column;
        if (sums && part.begin == 0) add_sums(rows_of_a, r0, n, slab, k0 == 0);
        const bool by_rows = a_column == 1, in_place = by_rows && (a_row < 2 * kSlab || part.end - part.begin < 4);
        for (int64 r = 0; r < n && by_rows && !in_place; ++r)
          std::memcpy(tiles + r * kPitch, rows_of_a + r * a_row, slab * sizeof(T));
        for (int64 k = 0; k < slab && !by_rows; k += 16)  // a few at a time: what is read stays in the first cache
          for_tiles(n, PackedRows{rows_of_a + k * a_column, a_row, a_column, least(slab - k, 16), tiles, k});
        for (int64 m = part.begin; m < part.end; ++m) {
          const auto& [f, first, count] = block(m);
          const T* panel = kept ? kept + (k0 * blocks() + m * slab) * Simd<T>::panel : to + (m - part.begin) * kPanel;
          T* c = f.c + r0 * f.columns + first;
          const PanelProduct<T> of{in_place ? rows_of_a : tiles, in_place ? a_row : kPitch, slab, panel, c, f.columns, count,
                                   k0 ? c : bias ? bias + first : nullptr, k0 ? f.columns : 0};
          by_rows ? add_product<T>(n, of) : add_product<T, true>(n, of);
        }
      }
    }
  }
};

template <typename T>
void multiply(Product<T> p, int64 threads) {
  if (p.depth == 0) {  // sums of nothing
    for (int n = 0; n < p.count; ++n) {
      const Factor<T>& f = p.factors[n];
      for (int64 k = 0; k < p.rows * f.columns; ++k) f.c[k] = p.bias ? p.bias[k % f.columns] : T(0);
    }
    for (int64 row = 0; p.sums && row < p.rows; ++row) p.sums[row] = 0;
    return;
  }
  const int64 panels = p.kept ? 0 : p.owners(threads) * p.panels_size();
  p.panels = scratch<T>(panels + threads * Product<T>::kRows * Product<T>::kPitch);
  p.packed = p.panels + panels;
  run_on(threads, p);
}
