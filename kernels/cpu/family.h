// The recurrence of the LSTM family, forward and backward, as in gpu_lstm/recurrence/family.py.
//
// Included once for each instruction set (set.h). The options are numbers and pointers at run time: this is the general
// recurrence, and the one of recurrence.h stays plain.
// P is the size of h: that of the projection, else H. Each of `heads` heads has its own panels, over its P / heads
// values of h and its H / heads units; a block of columns never reaches into the next head. With layer normalisation,
// which takes whole rows of the batch, the threads split the rows for all but the products.

#include "../cell/options.h"

// Columns of one head that a panel holds, of all columns.
struct Block {
  int64 head, first, count;
};

// heads * per_head columns in blocks of up to `wide`.
struct Columns {
  int64 heads, per_head, wide;

  int64 blocks_each() const { return divide_up(per_head, wide); }
  int64 blocks() const { return heads * blocks_each(); }
  Block block(int64 n) const {
    const int64 head = n / blocks_each(), within = n % blocks_each() * wide;
    return {head, head * per_head + within, per_head - within < wide ? per_head - within : wide};
  }
};

template <typename T>
struct Family : Options<T, T> {
  using V = typename Simd<T>::V;
  int64 steps, batch, hidden, size, heads;  // T, B, H, P, n
  const T* weight;                         // (4H, P/n)
  const int64* lengths;                     // (B,) or null
  bool reverse;
  const T* projection;                     // (P, H) or null

  bool valid(int64 t, int64 b) const { return !lengths || t < lengths[b]; }
  int64 before(int64 t) const { return reverse ? t + 1 : t; }
  int64 after(int64 t) const { return reverse ? t : t + 1; }
  V alive(int64 t, int64 b) const { return splat<V>(this->live ? this->live[t * batch + b] : T(1)); }
  V stays_h(int64 t, int64 b, int64 unit, int64 left) const {
    return this->zoneout_h ? load(this->zoneout_h + (t * batch + b) * size + unit, left) : splat<V>(this->share_h);
  }
  V stays_c(int64 t, int64 b, int64 unit, int64 left) const {
    return this->zoneout_c ? load(this->zoneout_c + (t * batch + b) * hidden + unit, left) : splat<V>(this->share_c);
  }
  V masked(V x, int64 b, int64 unit, int64 left) const {
    return this->recurrent_mask ? x * load(this->recurrent_mask + b * size + unit, left) : x;
  }
  Peepholes<V> peepholes_of(int64 unit, int64 left) const {
    const T* p = this->peepholes + unit;
    if (!this->peepholes) return {V{}, V{}, V{}};
    return {load(p, left), load(p + hidden, left), load(p + 2 * hidden, left)};
  }

  // Columns of h, hidden units, and those with the four gates of each.
  Columns of_h() const { return {heads, size / heads, Simd<T>::panel}; }
  Columns of_units() const { return {1, hidden, Simd<T>::panel}; }
  Columns of_gates() const { return {heads, hidden / heads, Simd<T>::panel}; }
};

// visit(b, unit, units left in the block, its element of sums) for each vector of a block in some rows of the batch.
template <typename T, typename Visit>
void each_vector(Range rows, const Block& block, const T* sums, const Visit& visit) {
  for (int64 b = rows.begin; b < rows.end; ++b, sums += Simd<T>::panel)
    for (int64 j = 0; j < block.count; j += Simd<T>::width) visit(b, block.first + j, block.count - j, sums + j);
}

// `count` numbers become those with mean 0 and variance 1; the factor that made their variance so.
template <typename T>
T normalise_row(T* x, int64 count, T epsilon) {
  using V = typename Simd<T>::V;
  constexpr int64 width = Simd<T>::width;
  V sum{}, squares{};
  for (int64 j = 0; j < count; j += width) sum += load(x + j, count - j);
  const V mean = splat<V>(sum_of<T>(sum) / T(count));
  for (int64 j = 0; j < count; j += width) {
    const V centred = load(x + j, count - j) - mean;
    squares += count - j >= width ? centred * centred : first_of<T>(count - j) ? centred * centred : V{};
    store(x + j, centred, count - j);
  }
  const T scale = T(1) / std::sqrt(sum_of<T>(squares) / T(count) + epsilon);
  for (int64 j = 0; j < count; j += width) store(x + j, load(x + j, count - j) * scale, count - j);
  return scale;
}

// dy, the gradient of y, becomes that of x, for y = normalise_row(x); y may be where it is written.
template <typename T>
void normalise_row_backward(const T* dy, const T* y, T scale, int64 count, T* dx) {
  using V = typename Simd<T>::V;
  constexpr int64 width = Simd<T>::width;
  V sum{}, with_y{};
  for (int64 j = 0; j < count; j += width) {
    const V d = load(dy + j, count - j);
    sum += d;
    with_y += d * load(y + j, count - j);
  }
  const V mean = splat<V>(sum_of<T>(sum) / T(count)), mean_y = splat<V>(sum_of<T>(with_y) / T(count));
  for (int64 j = 0; j < count; j += width) {
    const int64 left = count - j;
    store(dx + j, (load(dy + j, left) - mean - load(y + j, left) * mean_y) * scale, left);
  }
}

// ---------------------------------------------------------------------------------------------------- forward

template <typename T>
struct FamilyForward {
  using V = typename Simd<T>::V;
  Family<T> f;
  T *z, *h, *c;  // c has one slot only where keep is false
  T* cells;      // (T, B, H): c before zoneout; or null
  T* m;          // (T, B, H): what is projected, one step where keep is false; or null
  T *normalised, *scales;  // (T, B, 4H), (T, B): h W_hh^T normalised, one step where keep is false; or null
  bool keep;
  T* panels = nullptr;  // [block][gate][k][unit], then projection_panels() and seen()
  T* own = nullptr;     // own_size() of each thread

  int64 depth() const { return f.size / f.heads; }
  int64 panel_size() const { return 4 * depth() * Simd<T>::panel; }
  int64 weight_size() const { return f.of_gates().blocks() * panel_size(); }
  int64 projection_size() const { return f.projection ? projected().blocks() * f.hidden * Simd<T>::panel : 0; }
  T* projection_panels() const { return panels + weight_size(); }  // [block][k][column of h]
  // (2, B, P): what this step and the next multiply by W_hh
  T* seen() const { return projection_panels() + projection_size(); }
  int64 panels_size() const { return weight_size() + projection_size() + whole_lines<T>(2 * f.batch * f.size); }
  int64 own_size() const { return whole_lines<T>(4 * f.batch * Simd<T>::panel + f.hidden); }
  Columns projected() const { return {1, f.size, Simd<T>::panel}; }

  void pack(int64 n) const {
    const Block block = f.of_gates().block(n);
    pack_gates(f.weight, f.hidden, depth(), block.first, block.count, panels + n * panel_size());
  }

  void pack_projection(int64 n) const {
    const Block block = projected().block(n);
    pack_panel(f.projection + block.first * f.hidden, 1, f.hidden, f.hidden, block.count,
               projection_panels() + n * f.hidden * Simd<T>::panel);
  }

  T* seen_at(int64 n) const { return seen() + (n & 1) * f.batch * f.size; }

  // What step n multiplies by W_hh, from h before it.
  void see(int64 n, int64 t, int64 b, int64 unit, int64 left, V h_before) const {
    store(seen_at(n) + b * f.size + unit, f.masked(h_before * f.alive(t, b), b, unit, left), left);
  }

  int64 step(int64 n) const { return f.reverse ? f.steps - 1 - n : n; }

  // h of step n, from o tanh(c) or its projection.
  void finish(int64 n, int64 b, int64 unit, int64 left, V h_new) const {
    const int64 t = step(n);
    const V old = load(h + (f.before(t) * f.batch + b) * f.size + unit, left);
    h_new = f.valid(t, b) ? zoned_out<T>(f.stays_h(t, b, unit, left), old * f.alive(t, b), h_new) : old;
    store(h + (f.after(t) * f.batch + b) * f.size + unit, h_new, left);
    if (n + 1 < f.steps) see(n + 1, step(n + 1), b, unit, left, h_new);
  }

  // Some rows of a block in step n.
  void through_weight(int64 n, int64 number, Range rows, T* sums) const {
    const Block block = f.of_gates().block(number);
    const int64 count = rows.end - rows.begin;
    through_gates(count, seen_at(n) + rows.begin * f.size + block.head * depth(), f.size, depth(),
                  panels + number * panel_size(), block.count, sums);
    each_vector(rows, block, sums, [&](int64 b, int64 unit, int64 left, const T* from_h) {
      one(n, b, unit, left, load_gates(from_h, gates_apart<T>(count), Simd<T>::width));
    });
  }

  // Some units of step n: `add` is the four gates' share of h.
  void one(int64 n, int64 b, int64 unit, int64 left, const Gates<V>& add) const {
    if (normalised) return store_gates(normalised_at(step(n)) + b * 4 * f.hidden + unit, f.hidden, add, left);
    V c_new;
    const V o = gates_of(n, b, unit, left, add, c_new);
    hand_on(n, b, unit, left, o * activation<T>(f, c_new));
  }

  // All units of a row, with layer normalisation, for which h W_hh^T is there; `row` is room for H numbers.
  void whole_row(int64 n, int64 b, T* row) const {
    constexpr int64 width = Simd<T>::width;
    const int64 t = step(n), H = f.hidden;
    T* y = normalised_at(t) + b * 4 * H;
    scales[(keep ? t * f.batch : 0) + b] = normalise_row(y, 4 * H, f.epsilon);
    for (int64 unit = 0; unit < H; unit += width) {
      const int64 left = H - unit;
      auto add = load_gates(y + unit, H, left);
      const auto gain = load_gates(f.gain_hh + unit, H, left);
      V c_new;
      gates_of(n, b, unit, left, {add.i * gain.i, add.f * gain.f, add.g * gain.g, add.o * gain.o}, c_new);
      store(row + unit, c_new, left);
    }
    normalise_row(row, H, f.epsilon);
    const T* o = z + ((t * f.batch + b) * 4 + 3) * H;
    for (int64 unit = 0; unit < H; unit += width) {
      const int64 left = H - unit;
      const V u = load(row + unit, left) * load(f.gain_c + unit, left) + load(f.shift_c + unit, left);
      hand_on(n, b, unit, left, load(o + unit, left) * activation<T>(f, u));
    }
  }

  // Gates and c of step n; c is given before zoneout, and o.
  V gates_of(int64 n, int64 b, int64 unit, int64 left, const Gates<V>& add, V& c_new) const {
    const int64 t = step(n), H = f.hidden, at = (t * f.batch + b) * H + unit;
    const T* c_before = c + ((keep ? f.before(t) : 0) * f.batch + b) * H + unit;
    T* here = z + (t * f.batch + b) * 4 * H + unit;
    auto gates = load_gates(here, H, left) + add;
    const V before = load(c_before, left), old = before * f.alive(t, b);
    family_gates<T>(f, f.peepholes_of(unit, left), gates, old, c_new);
    if (keep || normalised) store_gates(here, H, gates, left);
    if (cells) store(cells + at, c_new, left);
    const V c_after = f.valid(t, b) ? zoned_out<T>(f.stays_c(t, b, unit, left), old, c_new) : before;
    store(c + ((keep ? f.after(t) : 0) * f.batch + b) * H + unit, c_after, left);
    return gates.o;
  }

  // o tanh(c) of step n goes to the projection or is h.
  void hand_on(int64 n, int64 b, int64 unit, int64 left, V m_new) const {
    if (m) store(m_at(step(n)) + b * f.hidden + unit, m_new, left);
    else finish(n, b, unit, left, m_new);
  }

  T* normalised_at(int64 t) const { return normalised + (keep ? t * f.batch * 4 * f.hidden : 0); }
  T* m_at(int64 t) const { return m + (keep ? t * f.batch * f.hidden : 0); }

  void project(int64 n, int64 number, Range rows, T* sums) const {
    const Block block = projected().block(number);
    through_panel(rows.end - rows.begin, m_at(step(n)) + rows.begin * f.hidden, f.hidden, f.hidden,
                  projection_panels() + number * f.hidden * Simd<T>::panel, block.count, sums, false);
    each_vector(rows, block, sums, [&](int64 b, int64 unit, int64 left, const T* sum) {
      finish(n, b, unit, left, load(sum));
    });
  }

  void run(int member, int members, Barrier& barrier, bool split_batch) const {
    const Range mine = share(f.of_gates().blocks(), member, members);
    const Range mine_of_h = share(m ? projected().blocks() : 0, member, members);
    const Range own_rows = share(f.batch, member, members);
    for (int64 n = mine.begin; n < mine.end; ++n) pack(n);
    for (int64 n = mine_of_h.begin; n < mine_of_h.end; ++n) pack_projection(n);
    for (int64 b = own_rows.begin; b < own_rows.end; ++b)
      for (int64 unit = 0; unit < f.size; unit += Simd<T>::width)
        see(0, step(0), b, unit, f.size - unit,
            load(h + (f.before(step(0)) * f.batch + b) * f.size + unit, f.size - unit));
    barrier.wait();
    const Range rows = split_batch ? own_rows : Range{0, f.batch};
    const Range units = split_batch ? Range{0, f.of_gates().blocks()} : mine;
    const Range columns = split_batch ? Range{0, m ? projected().blocks() : 0} : mine_of_h;
    T *sums = own + member * own_size(), *row = sums + 4 * f.batch * Simd<T>::panel;
    for (int64 n = 0; n < f.steps; ++n) {
      for (int64 block = units.begin; block < units.end; ++block) through_weight(n, block, rows, sums);
      if (normalised) {
        if (!split_batch) barrier.wait();
        for (int64 b = own_rows.begin; b < own_rows.end; ++b) whole_row(n, b, row);
      }
      if (m) {
        if (!split_batch) barrier.wait();
        for (int64 block = columns.begin; block < columns.end; ++block) project(n, block, rows, sums);
      }
      if (!split_batch) barrier.wait();
    }
  }
};

// ---------------------------------------------------------------------------------------------------- backward

template <typename T>
struct FamilyBackward {
  using V = typename Simd<T>::V;
  Family<T> f;
  T* gates;  // become dz
  const T *c, *cells;  // (T+1, B, H); (T, B, H) or null
  const T *dy, *dc_each;  // (T, B, P) and (T, B, H), rows dy_row and dc_row elements apart; or null
  int64 dy_row, dc_row;
  T *dh, *dc;    // (B, P), (B, H): at first of the final state, at last of the initial one
  T* projected;  // (T, B, P), written: the gradient of W_hr (o tanh(c)); or null
  T* dpeepholes;  // (B, 3, H), added to: gradients of the peepholes, to be summed over the batch; or null
  T* normalised;    // (T, B, 4H), becomes the gradient of h W_hh^T; or null
  const T* scales;  // (T, B) or null
  T* dnorm;         // (B, 6H), added to: gradients of gain_hh, gain_c and shift_c, to be summed over the batch; or null
  T* panels = nullptr;  // [block][k][column of h], then projection_panels() and dm()
  T* own = nullptr;     // own_size() of each thread

  int64 panel_size() const { return 4 * f.hidden / f.heads * Simd<T>::panel; }
  int64 weight_size() const { return f.of_h().blocks() * panel_size(); }
  int64 projection_size() const { return projected ? f.of_units().blocks() * f.size * Simd<T>::panel : 0; }
  T* projection_panels() const { return panels + weight_size(); }  // [block][k][unit]
  // (B, H): what arrives at o tanh(c), with layer normalisation
  T* dm() const { return projection_panels() + projection_size(); }
  int64 panels_size() const {
    return weight_size() + projection_size() + (normalised ? whole_lines<T>(f.batch * f.hidden) : 0);
  }
  int64 own_size() const { return whole_lines<T>(f.batch * Simd<T>::panel + 8 * f.hidden); }

  // visit(first row of W_hh, rows, rows of the head before it) for the runs of rows that belong to a head.
  template <typename Visit>
  void each_run(int64 head, const Visit& visit) const {
    const int64 own = f.hidden / f.heads;
    if (f.heads == 1) visit(0, 4 * f.hidden, 0);
    else
      for (int64 gate = 0; gate < 4; ++gate) visit(gate * f.hidden + head * own, own, gate * own);
  }

  void pack(int64 n) const {
    const Block block = f.of_h().block(n);
    const int64 width = f.size / f.heads, wide = divide_up(block.count, Simd<T>::width) * Simd<T>::width;
    each_run(block.head, [&](int64 row, int64 count, int64 place) {
      pack_panel(f.weight + row * width + block.first - block.head * width, width, 1, count, block.count,
                 panels + n * panel_size() + place * wide);
    });
  }

  void pack_projection(int64 n) const {
    const Block block = f.of_units().block(n);
    pack_panel(f.projection + block.first, f.hidden, 1, f.size, block.count,
               projection_panels() + n * f.size * Simd<T>::panel);
  }

  // sums (rows, panel) = dz of step t times a block of W_hh.
  void through_weight(int64 t, int64 n, Range rows, T* sums) const {
    const Block block = f.of_h().block(n);
    const int64 wide = divide_up(block.count, Simd<T>::width) * Simd<T>::width;
    each_run(block.head, [&](int64 row, int64 count, int64 place) {
      through_panel(rows.end - rows.begin, (normalised ? normalised : gates) + (t * f.batch + rows.begin) * 4 * f.hidden + row,
                    4 * f.hidden, count, panels + n * panel_size() + place * wide, block.count, sums, place > 0);
    });
  }

  // What arrives at h from step `from`, the one after (-1: the end): through the weights and what stayed of it, or as
  // it was where the sequence has no such step.
  V arriving(int64 from, int64 b, int64 unit, int64 left, const T* sum) const {
    const V kept = load(dh + b * f.size + unit, left);
    if (from < 0 || !f.valid(from, b)) return kept;
    return (f.masked(load(sum), b, unit, left) + kept) * f.alive(from, b);
  }

  // The gradient of the h that step t makes, before zoneout.
  V into_step(int64 t, int64 from, int64 b, int64 unit, int64 left, const T* sum) const {
    V all = arriving(from, b, unit, left, sum);
    T* kept = dh + b * f.size + unit;
    if (!f.valid(t, b)) {
      store(kept, all, left);
      return V{};
    }
    if (dy) all += load(dy + (t * f.batch + b) * dy_row + unit, left);
    const V old = f.stays_h(t, b, unit, left) * all;
    store(kept, old, left);
    return all - old;
  }

  const T* new_c(int64 t, int64 b) const {
    return cells ? cells + (t * f.batch + b) * f.hidden : c + (f.after(t) * f.batch + b) * f.hidden;
  }

  // Some units, from what arrives at their o tanh(c).
  void one(int64 t, int64 b, int64 unit, int64 left, V dm_here) const {
    if (normalised) return store(dm() + b * f.hidden + unit, dm_here, left);
    const V o = load(gates + ((t * f.batch + b) * 4 + 3) * f.hidden + unit, left);
    const V output = activation<T>(f, load(new_c(t, b) + unit, left));
    through_cell(t, b, unit, left, dm_here * output, dm_here * o * activation_slope<T>(f, output));
  }

  // All units of a row, with layer normalisation; `row` is room for 8 H numbers.
  void whole_row(int64 t, int64 b, T* row) const {
    constexpr int64 width = Simd<T>::width;
    const int64 H = f.hidden, at = t * f.batch + b;
    T *y = row, *d_o = row + H, *dy = row + 2 * H, *into_c = row + 3 * H, *dz_gain = row + 4 * H;
    T *dgain_hh = dnorm + b * 6 * H, *dgain_c = dgain_hh + 4 * H, *dshift_c = dgain_hh + 5 * H;
    const T* o = gates + (at * 4 + 3) * H;
    for (int64 unit = 0; unit < H; ++unit) y[unit] = new_c(t, b)[unit];
    const T scale = normalise_row(y, H, f.epsilon);
    for (int64 unit = 0; unit < H; unit += width) {
      const int64 left = H - unit;
      const V y_c = load(y + unit, left), gain = load(f.gain_c + unit, left), arrived = load(dm() + b * H + unit, left);
      const V output = activation<T>(f, y_c * gain + load(f.shift_c + unit, left));
      const V du = arrived * load(o + unit, left) * activation_slope<T>(f, output);
      store(d_o + unit, arrived * output, left);
      store(dy + unit, du * gain, left);
      store(dgain_c + unit, load(dgain_c + unit, left) + du * y_c, left);
      store(dshift_c + unit, load(dshift_c + unit, left) + du, left);
    }
    normalise_row_backward(dy, y, scale, H, into_c);
    for (int64 unit = 0; unit < H; unit += width)
      through_cell(t, b, unit, H - unit, load(d_o + unit, H - unit), load(into_c + unit, H - unit));
    T *y_hh = normalised + at * 4 * H, *dz = gates + at * 4 * H;
    for (int64 k = 0; k < 4 * H; k += width) {
      const int64 left = 4 * H - k;
      const V d = load(dz + k, left);
      store(dgain_hh + k, load(dgain_hh + k, left) + d * load(y_hh + k, left), left);
      store(dz_gain + k, d * load(f.gain_hh + k, left), left);
    }
    normalise_row_backward(dz_gain, y_hh, scales[at], 4 * H, y_hh);
  }

  // gates become dz, and dc that of the step before; `into_c` arrives at c from o tanh(c).
  void through_cell(int64 t, int64 b, int64 unit, int64 left, V d_o, V into_c) const {
    const int64 H = f.hidden, row = t * f.batch + b;
    T* here = gates + row * 4 * H + unit;
    if (!f.valid(t, b)) return store_gates(here, H, Gates<V>{}, left);
    const V alive = f.alive(t, b), c_old = load(c + (f.before(t) * f.batch + b) * H + unit, left) * alive;
    const V c_new = load(new_c(t, b) + unit, left);
    V carried = load(dc + b * H + unit, left);
    if (dc_each) carried += load(dc_each + row * dc_row + unit, left);
    const V stays = f.stays_c(t, b, unit, left) * carried;
    carried = carried - stays + into_c;
    auto dz = load_gates(here, H, left);
    family_gates_backward<T>(f, f.peepholes_of(unit, left), dz, c_old, c_new, d_o, carried);
    store(dc + b * H + unit, (carried + stays) * alive, left);
    store_gates(here, H, dz, left);
    if (!dpeepholes) return;
    T* sums = dpeepholes + b * 3 * H + unit;
    store(sums, load(sums, left) + dz.i * c_old, left);
    store(sums + H, load(sums + H, left) + dz.f * c_old, left);
    store(sums + 2 * H, load(sums + 2 * H, left) + dz.o * c_new, left);
  }

  void run(int member, int members, Barrier& barrier, bool split_batch) const {
    const Range mine = share(f.of_h().blocks(), member, members);
    const Range mine_of_units = share(projected ? f.of_units().blocks() : 0, member, members);
    for (int64 n = mine.begin; n < mine.end; ++n) pack(n);
    for (int64 n = mine_of_units.begin; n < mine_of_units.end; ++n) pack_projection(n);
    barrier.wait();
    const Range rows = split_batch ? share(f.batch, member, members) : Range{0, f.batch};
    const Range blocks = split_batch ? Range{0, f.of_h().blocks()} : mine;
    const Range units = split_batch ? Range{0, projected ? f.of_units().blocks() : 0} : mine_of_units;
    const Range own_rows = share(f.batch, member, members);
    const int64 count = rows.end - rows.begin;
    T *sums = own + member * own_size(), *row = sums + f.batch * Simd<T>::panel;
    int64 from = -1;
    for (int64 n = 0; n < f.steps; ++n) {
      const int64 t = f.reverse ? n : f.steps - 1 - n;
      for (int64 block = blocks.begin; block < blocks.end; ++block) {
        if (from >= 0) through_weight(from, block, rows, sums);
        each_vector(rows, f.of_h().block(block), sums, [&](int64 b, int64 unit, int64 left, const T* sum) {
          const V dh_new = into_step(t, from, b, unit, left, sum);
          if (projected) store(projected + (t * f.batch + b) * f.size + unit, dh_new, left);
          else one(t, b, unit, left, dh_new);
        });
      }
      if (projected) {
        if (!split_batch) barrier.wait();
        for (int64 number = units.begin; number < units.end; ++number) {
          const Block block = f.of_units().block(number);
          through_panel(count, projected + (t * f.batch + rows.begin) * f.size, f.size, f.size,
                        projection_panels() + number * f.size * Simd<T>::panel, block.count, sums, false);
          each_vector(rows, block, sums, [&](int64 b, int64 unit, int64 left, const T* sum) {
            one(t, b, unit, left, load(sum));
          });
        }
      }
      if (normalised) {
        if (!split_batch) barrier.wait();
        for (int64 b = own_rows.begin; b < own_rows.end; ++b) whole_row(t, b, row);
      }
      if (!split_batch) barrier.wait();
      from = t;
    }
    for (int64 block = blocks.begin; block < blocks.end; ++block) {
      through_weight(from, block, rows, sums);
      each_vector(rows, f.of_h().block(block), sums, [&](int64 b, int64 unit, int64 left, const T* sum) {
        store(dh + b * f.size + unit, arriving(from, b, unit, left, sum), left);
      });
    }
  }
};
