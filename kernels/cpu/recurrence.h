// The recurrence of the plain LSTM over a whole sequence, forward and backward.
//
// Included once for each instruction set (set.h). Arrays are those of gpu_lstm/recurrence/problem.py:
//   z, gates, dz (T, B, 4H)    h, c (T+1, B, H)    weight_hh (4H, H)    gate order i, f, g, o
//
// Blocks of hidden units, as many vectors as a tile has, are multiplied for some rows of the batch, and their cells are
// finished while the sums are in cache. Forward, a block has a panel for each gate.

// What a member of a team works on in each step: the threads split the batch, or the hidden units in blocks; then they
// wait for each other after each step.
struct Part {
  Range rows, blocks;

  Part(int64 batch, int64 count, int member, int members, bool split_batch)
      : rows(split_batch ? share(batch, member, members) : Range{0, batch}),
        blocks(split_batch ? Range{0, count} : share(count, member, members)) {}
};

// Rows first.. of each gate of a (4H, depth) matrix as four panels, one after the other.
template <typename T>
void pack_gates(const T* weight, int64 hidden, int64 depth, int64 first, int64 count, T* to) {
  const int64 size = depth * whole_vectors<T>(count);
  for (int64 gate = 0; gate < 4; ++gate)
    pack_panel(weight + (gate * hidden + first) * depth, 1, depth, depth, count, to + gate * size);
}

// The four gates' sums of some rows of A times such panels: [gate][row][unit], gates gates_apart(rows) from one another.
template <typename T>
int64 gates_apart(int64 rows) {
  return rows * Simd<T>::panel;
}

template <typename T>
void through_gates(int64 rows, const T* a, int64 row, int64 depth, const T* panels, int64 count, T* sums,
                   bool add = false, int64 pitch = Simd<T>::panel) {
  const int64 size = depth * whole_vectors<T>(count);
  if (rows <= kFew) return few_through_four(rows, a, row, depth, panels, size, count, sums, add, rows * pitch, pitch);
  for (int64 gate = 0; gate < 4; ++gate)
    through_panel(rows, a, row, depth, panels + gate * size, count, sums + gate * rows * pitch, add, pitch);
}

template <typename T>
struct Forward {
  int64 steps, batch, hidden;
  T *z, *h, *c;       // c has one slot only where keep is false
  const T* weight;    // (4H, H)
  const int64* lengths;  // (B,) or null
  bool reverse, keep;
  const T* kept;        // the panels, where another call has made them; or null
  T* panels = nullptr;  // blocks of up to a panel of hidden units: [block][gate][k][unit]
  T* own = nullptr;     // own_size() of each thread

  // Of the batch, and of the blocks, at a time: cells of several blocks read and write in longer runs.
  static constexpr int64 kRows = 64, kBlocks = 256 / Simd<T>::panel;

  int64 blocks() const { return divide_up(hidden, Simd<T>::panel); }
  int64 panel_size() const { return 4 * hidden * Simd<T>::panel; }
  int64 panels_size() const { return kept ? 0 : blocks() * panel_size(); }
  int64 own_size() const { return 4 * gates_apart<T>(least(batch, kRows)) * least(blocks(), kBlocks); }
  int64 first(int64 block) const { return block * Simd<T>::panel; }
  int64 count(int64 block) const { return least(hidden - first(block), Simd<T>::panel); }
  const T* panel(int64 block) const { return (kept ? kept : panels) + block * panel_size(); }

  void pack(int64 block) const {
    pack_gates(weight, hidden, hidden, first(block), count(block), panels + block * panel_size());
  }

  // Some rows of some blocks in step t, from h W_hh^T: gates and c of all units, then h, so that no tanh(c) waits for the
  // gates of its unit. `sums` keep o.
  void cells(int64 t, int64 before, int64 after, Range rows, Range of, T* sums) const {
    const int64 H = hidden, begin = first(of.begin), wide = first(of.end) - begin, units = least(wide, H - begin);
    const int64 slot_before = keep ? before : 0, slot = keep ? after : 0, apart = (rows.end - rows.begin) * wide;
    for (int64 b = rows.begin; b < rows.end; ++b, sums += wide) {
      const bool over = lengths && t >= lengths[b];
      T *here = z + (t * batch + b) * 4 * H + begin, *c_after = c + (slot * batch + b) * H + begin;
      T *c_before = c + (slot_before * batch + b) * H + begin, *h_after = h + (after * batch + b) * H + begin;
      for (int64 j = 0, left = units; j < units; j += Simd<T>::width, left -= Simd<T>::width) {
        auto gates = load_gates(here + j, H, left) + load_gates(sums + j, apart, left);
        typename Simd<T>::V c_new, later;
        cell_forward<T>(gates, load(c_before + j, left), c_new, later);
        if (keep) store_gates(here + j, H, gates, left);
        store(sums + j, gates.o);
        store(c_after + j, over ? load(c_before + j, left) : c_new, left);
      }
      for (int64 j = 0, left = units; j < units; j += Simd<T>::width, left -= Simd<T>::width) {
        const auto h_new = load(sums + j) * tanh_of<T>(load(c_after + j, left));
        store(h_after + j, over ? load(h + (before * batch + b) * H + begin + j, left) : h_new, left);
      }
    }
  }

  void run(int member, int members, Barrier& barrier, bool split_batch) const {
    const Range mine = kept ? Range{} : share(blocks(), member, members);
    for (int64 block = mine.begin; block < mine.end; ++block) pack(block);
    if (!kept) barrier.wait();
    const auto [rows, units] = Part(batch, blocks(), member, members, split_batch);
    T* sums = own + member * own_size();
    for (int64 n = 0; n < steps; ++n) {
      const int64 t = reverse ? steps - 1 - n : n, before = reverse ? t + 1 : t, after = reverse ? t : t + 1;
      // To and fro: the step begins with the panels that the one before had last, which are still in cache.
      const int64 groups = divide_up(units.end - units.begin, kBlocks);
      for (int64 k = 0; k < groups; ++k) {
        const int64 start = units.begin + (n % 2 ? groups - 1 - k : k) * kBlocks;
        const Range of{start, least(start + kBlocks, units.end)};
        for (int64 b = rows.begin; b < rows.end; b += kRows) {
          const Range some{b, least(b + kRows, rows.end)};
          for (int64 block = of.begin; block < of.end; ++block)
            through_gates(some.end - b, h + (before * batch + b) * hidden, hidden, hidden, panel(block), count(block),
                          sums + first(block - of.begin), false, first(of.end - of.begin));
          cells(t, before, after, some, of, sums);
        }
      }
      if (!split_batch) barrier.wait();
    }
  }
};

template <typename T>
struct Backward {
  int64 steps, batch, hidden;
  T* gates;  // become dz
  const T *c, *weight;
  const T* dy;  // (T, B, H), rows dy_row elements apart; or null
  int64 dy_row;
  const int64* lengths;
  bool reverse;
  T *dh, *dc;  // (B, H): at first of the final state, at last of the initial one
  T* panels = nullptr;  // blocks of up to 4 vectors of hidden units: [block][k = 4H][unit]
  T* own = nullptr;     // own_size() of each thread

  int64 blocks() const { return divide_up(hidden, Simd<T>::panel); }
  int64 panel_size() const { return 4 * hidden * Simd<T>::panel; }
  int64 panels_size() const { return blocks() * panel_size(); }
  int64 own_size() const { return batch * blocks() * Simd<T>::panel; }
  int64 first(int64 block) const { return block * Simd<T>::panel; }
  int64 count(int64 block) const { return least(hidden - first(block), Simd<T>::panel); }
  bool valid(int64 t, int64 b) const { return !lengths || t < lengths[b]; }

  void pack(int64 block) const {
    pack_panel(weight + first(block), hidden, 1, 4 * hidden, count(block), panels + block * panel_size());
  }

  // sums (rows, units of all blocks) = dz of step t times weight_hh.
  void through_weight(int64 t, Range rows, Range of, T* sums) const {
    const T* dz = gates + (t * batch + rows.begin) * 4 * hidden;
    const int64 depth = 4 * hidden, wide = Simd<T>::panel, pitch = first(of.end - of.begin), m = rows.end - rows.begin;
    for (int64 block = of.begin, n; block < of.end; block += n, sums += n * wide) {
      n = m <= kFew && block + 4 <= of.end && count(block + 3) == wide ? 4 : 1;
      const T* from = panels + block * panel_size();
      if (n == 4) few_through_four(m, dz, depth, depth, from, panel_size(), wide, sums, false, wide, pitch);
      else through_panel(m, dz, depth, depth, from, count(block), sums, false, pitch);
    }
  }

  // What arrives at h before step `from` (-1: the end): through the weights, or as it was where there is no such step.
  void cells(int64 t, int64 from, Range rows, Range of, const T* sums) const {
    const int64 H = hidden, before = reverse ? t + 1 : t, after = reverse ? t : t + 1;
    const int64 begin = first(of.begin), end = first(of.end);
    for (int64 b = rows.begin; b < rows.end; ++b, sums += end - begin) {
      const bool through = from >= 0 && valid(from, b), here = valid(t, b);
      for (int64 unit = begin; unit < least(end, H); unit += Simd<T>::width) {
        const int64 left = H - unit;
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
    for (int64 block = mine.begin; block < mine.end; ++block) pack(block);
    barrier.wait();
    const auto [rows, units] = Part(batch, blocks(), member, members, split_batch);
    T* sums = own + member * own_size();
    int64 from = -1;
    for (int64 n = 0; n < steps; ++n) {
      const int64 t = reverse ? n : steps - 1 - n;
      if (from >= 0) through_weight(from, rows, units, sums);
      cells(t, from, rows, units, sums);
      if (!split_batch) barrier.wait();
      from = t;
    }
    through_weight(from, rows, units, sums);
    const int64 begin = first(units.begin), end = first(units.end);
    for (int64 b = rows.begin; b < rows.end; ++b, sums += end - begin)
      for (int64 unit = begin; unit < least(end, hidden) && valid(from, b); unit += Simd<T>::width)
        store(dh + b * hidden + unit, load(sums + unit - begin), hidden - unit);
  }
};

// One recurrence on so many threads, or two of the same size at once, each on half of them.
template <typename T, typename Recurrence>
void run(Recurrence* of, int64 count, int64 steps, int64 threads, bool split_batch) {
  if (steps == 0) return;
  const int64 panels = of->panels_size(), size = panels + threads * of->own_size();
  T* memory = scratch<T>(count * size);
  for (int64 n = 0; n < count; ++n) {
    of[n].panels = memory + n * size;
    of[n].own = of[n].panels + panels;
  }
  Team::run(int(count), int(threads), [&](int n, int member, int members, Barrier& barrier) {
    of[n].run(member, members, barrier, split_batch);
  });
}
