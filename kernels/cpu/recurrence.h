// The recurrence of the plain LSTM over a whole sequence, forward and backward.
//
// Included once for each instruction set (set.h). Arrays are those of gpu_lstm/recurrence/problem.py:
//   z, gates, dz (T, B, 4H)    h, c (T+1, B, H)    weight_hh (4H, H)    gate order i, f, g, o
//
// Forward, the 4 vectors of a panel are the four gates of the same hidden units, so that a cell is finished before
// anything goes back to memory. Backward, they are 4 vectors of hidden units.

// What a member of a team works on in each step: the threads split the batch, or the hidden units in blocks; then they
// wait for each other after each step.
struct Part {
  Range rows, blocks;

  Part(long batch, long count, int member, int members, bool split_batch)
      : rows(split_batch ? share(batch, member, members) : Range{0, batch}),
        blocks(split_batch ? Range{0, count} : share(count, member, members)) {}
};

// The rows of a (4H, depth) matrix that make the four gates of up to a vector of units, as [k][gate][unit].
template <typename T>
void pack_gates(const T* weight, long hidden, long depth, long first, long count, T* to) {
  constexpr long width = Simd<T>::width;
  // A few k at a time, so that the lines read and the lines written both stay in the first cache.
  for (long k1 = 0; k1 < depth; k1 += 16) {
    const long end = least(k1 + 16, depth);
    for (long gate = 0; gate < 4; ++gate)
      for (long unit = 0; unit < width; ++unit) {
        const T* from = weight + (gate * hidden + first + unit) * depth;
        for (long k = k1; k < end; ++k) to[(k * 4 + gate) * width + unit] = unit < count ? from[k] : T(0);
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
  const T* kept;  // the panels, where another call has made them; or null
  T* panels;      // blocks of `width` hidden units: [block][k][gate][unit]
  T* own;         // of each thread: nothing

  long blocks() const { return divide_up(hidden, Simd<T>::width); }
  long panel_size() const { return hidden * Simd<T>::panel; }
  long panels_size() const { return kept ? 0 : blocks() * panel_size(); }
  long own_size() const { return 0; }
  const T* panel(long block) const { return (kept ? kept : panels) + block * panel_size(); }

  void pack(long block) const {
    const long first = block * Simd<T>::width;
    pack_gates(weight, hidden, hidden, first, hidden - first, panels + block * panel_size());
  }

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
      product<T, M, 4>(H, p.h + (before * p.batch + first) * H, H, 1, p.panel(block), sums);
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
    const Range mine = kept ? Range{} : share(blocks(), member, members);
    for (long block = mine.begin; block < mine.end; ++block) pack(block);
    if (!kept) barrier.wait();
    const auto [rows, units] = Part(batch, blocks(), member, members, split_batch);
    for (long n = 0; n < steps; ++n) {
      const long t = reverse ? steps - 1 - n : n;
      // To and fro: the step begins with the panels that the one before had last, which are still in cache.
      for (long k = units.begin; k < units.end; ++k) {
        const long block = n % 2 ? units.begin + units.end - 1 - k : k;
        for_tiles(rows.end - rows.begin, Tile{*this, t, reverse ? t + 1 : t, reverse ? t : t + 1, block, rows.begin});
      }
      if (!split_batch) barrier.wait();
    }
  }
};

template <typename T>
struct Backward {
  long steps, batch, hidden;
  T* gates;  // become dz
  const T *c, *weight;
  const T* dy;  // (T, B, H), rows dy_row elements apart; or null
  long dy_row;
  const long* lengths;
  bool reverse;
  T *dh, *dc;  // (B, H): at first of the final state, at last of the initial one
  T* panels;   // blocks of up to 4 vectors of hidden units: [block][k = 4H][unit]
  T* own;      // own_size() of each thread

  long blocks() const { return divide_up(hidden, Simd<T>::panel); }
  long panel_size() const { return 4 * hidden * Simd<T>::panel; }
  long panels_size() const { return blocks() * panel_size(); }
  long own_size() const { return batch * Simd<T>::panel; }
  long first(long block) const { return block * Simd<T>::panel; }
  long count(long block) const { return least(hidden - first(block), Simd<T>::panel); }
  bool valid(long t, long b) const { return !lengths || t < lengths[b]; }

  void pack(long block) const {
    pack_panel(weight + first(block), hidden, 1, 4 * hidden, count(block), panels + block * panel_size());
  }

  // sums (rows, panel) = dz of step t times a block of weight_hh.
  void through_weight(long t, long block, Range rows, T* sums) const {
    through_panel(rows.end - rows.begin, gates + (t * batch + rows.begin) * 4 * hidden, 4 * hidden, 4 * hidden,
                  panels + block * panel_size(), count(block), sums);
  }

  // What arrives at h before step `from` (-1: at the end): through the weights, or as it was where the sequence has
  // no such step.
  void cells(long t, long from, long block, Range rows, const T* sums) const {
    const long H = hidden, before = reverse ? t + 1 : t, after = reverse ? t : t + 1, begin = first(block);
    for (long b = rows.begin; b < rows.end; ++b, sums += Simd<T>::panel) {
      const bool through = from >= 0 && valid(from, b), here = valid(t, b);
      for (long unit = begin; unit < begin + count(block); unit += Simd<T>::width) {
        const long left = H - unit;
        T *kept = dh + b * H + unit, *z = gates + (t * batch + b) * 4 * H + unit;
        auto arrived = through ? load(sums + unit - begin) : load(kept, left);
        Gates<typename Simd<T>::V> dz{};
        if (here) {
          if (dy) arrived += load(dy + (t * batch + b) * dy_row + unit, left);
          dz = load_gates(z, H, left);
          auto carried = load(dc + b * H + unit, left);
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
    const Range mine = share(blocks(), member, members);
    for (long block = mine.begin; block < mine.end; ++block) pack(block);
    barrier.wait();
    const auto [rows, units] = Part(batch, blocks(), member, members, split_batch);
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
          for (long j = 0; j < count(block); j += Simd<T>::width)
            store(dh + b * hidden + first(block) + j, load(sums + (b - rows.begin) * Simd<T>::panel + j),
                  count(block) - j);
    }
  }
};

// One recurrence on so many threads, or two of the same size at once, each on half of them.
template <typename T, typename Recurrence>
void run(Recurrence* of, long count, long steps, long threads, bool split_batch) {
  if (steps == 0) return;
  const long panels = of->panels_size(), size = panels + threads * of->own_size();
  T* memory = scratch<T>(count * size);
  for (long n = 0; n < count; ++n) {
    of[n].panels = memory + n * size;
    of[n].own = of[n].panels + panels;
  }
  Team::run(int(count), int(threads), [&](int n, int member, int members, Barrier& barrier) {
    of[n].run(member, members, barrier, split_batch);
  });
}

// Element-wise activations, for tests of their error.
template <typename T>
void activate(bool tanh_instead, long count, const T* x, T* y) {
  for (long k = 0; k < count; k += Simd<T>::width) {
    const auto v = load(x + k, count - k);
    store(y + k, tanh_instead ? tanh_of<T>(v) : sigmoid<T>(v), count - k);
  }
}
