// The cell of the LSTM family over a whole batch, one time step a launch: every option of
// gpu_lstm/recurrence/variant.py, whose equations are in family.py. The products are cuBLAS's.
//
// Without layer normalisation a thread takes N neighbouring units of one sequence, as in gates.cu; with it (Normed) a
// block takes a sequence, because sums over its row are needed, and each of its threads takes the same units in every
// pass over that row. Arrays of all T steps come in whole.
//
// With a projection the cell ends at m = o tanh(c); h = W_hr m and what happens to it, and to its gradient, are then
// kernels of their own, finish_h and begin_dh.

#include "common.cuh"
#include "cell.cuh"
#include "gates.cuh"

// How h, of size P, leaves a step.
template <typename S>
struct Leaving {
  const Options<Arithmetic<S>, S>& options;
  S* h;     // (T + 1, B, P)
  S* seen;  // (B, P) what the next step multiplies by W_hh, where that isn't h
  int64 t, next, before, after;
  unsigned batch, size;
};

template <typename T, int N, typename S>
__device__ __forceinline__ void leave(const Leaving<S>& to, unsigned b, unsigned u, bool valid, Pack<T, N> made) {
  const auto& options = to.options;
  const int64 all = int64(to.batch) * to.size, here = int64(b) * to.size + u;
  const S* const zoneout = options.zoneout_h;
  const bool zoned = valid && (zoneout || options.share_h > T(0));
  Pack<S, N> old, result;
  if (!valid || zoned) old = load<N>(to.h + to.before * all + here);
  if (zoned) {
    const T alive = options.live ? T(options.live[to.t * to.batch + b]) : T(1);
    Pack<S, N> shares;
    if (zoneout) shares = load<N>(zoneout + to.t * all + here);
#pragma unroll
    for (int k = 0; k < N; ++k)
      made.at[k] = zoned_out<T>(zoneout ? T(shares.at[k]) : options.share_h, T(old.at[k]) * alive, made.at[k]);
  }
#pragma unroll
  for (int k = 0; k < N; ++k) result.at[k] = valid ? S(made.at[k]) : old.at[k];
  store<N>(to.h + to.after * all + here, result);
  if (!to.seen) return;
  const T alive = options.live ? T(options.live[to.next * to.batch + b]) : T(1);
  Pack<S, N> mask;
  if (options.recurrent_mask) mask = load<N>(options.recurrent_mask + here);
#pragma unroll
  for (int k = 0; k < N; ++k)
    result.at[k] = S(T(result.at[k]) * (options.recurrent_mask ? T(mask.at[k]) * alive : alive));
  store<N>(to.seen + here, result);
}

// How the gradient of h arrives at a step: from dy, and from the step after it, which is `done`.
template <typename S>
struct Arriving {
  const Options<Arithmetic<S>, S>& options;
  const S* dy;              // (T, B, P)
  const Arithmetic<S>* dh;  // (B, P) dz W_hh of the step after; at the first step, where done < 0, what arrives at h
  Arithmetic<S>* kept;      // (B, P) what passes by the cell: zoneout's share, all outside a sequence
  int64 t, done;
  unsigned batch, size;
};

template <typename T, int N, typename S>
__device__ __forceinline__ Pack<T, N> arrive(const Arriving<S>& from, unsigned b, unsigned u, bool valid) {
  const auto& options = from.options;
  const int64 all = int64(from.batch) * from.size, here = int64(b) * from.size + u;
  Pack<T, N> dh = load<N>(from.dh + here), kept;
  if (from.done >= 0 && (options.recurrent_mask || options.live)) {
    const T alive = options.live ? T(options.live[from.done * from.batch + b]) : T(1);
    Pack<S, N> mask;
    if (options.recurrent_mask) mask = load<N>(options.recurrent_mask + here);
#pragma unroll
    for (int k = 0; k < N; ++k) dh.at[k] *= options.recurrent_mask ? T(mask.at[k]) * alive : alive;
  }
  if (from.kept) {
    kept = load<N>(from.kept + here);
#pragma unroll
    for (int k = 0; k < N; ++k) dh.at[k] += kept.at[k];
  }
  if (from.dy && valid) {
    const Pack<S, N> outside = load<N>(from.dy + from.t * all + here);
#pragma unroll
    for (int k = 0; k < N; ++k) dh.at[k] += T(outside.at[k]);
  }
  if (!from.kept) return dh;
  const T alive = options.live && valid ? T(options.live[from.t * from.batch + b]) : T(1);
  Pack<S, N> shares;
  if (options.zoneout_h) shares = load<N>(options.zoneout_h + from.t * all + here);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const T old = valid ? (options.zoneout_h ? T(shares.at[k]) : options.share_h) * dh.at[k] : dh.at[k];
    kept.at[k] = old * alive;
    dh.at[k] = valid ? dh.at[k] - old : T(0);
  }
  store<N>(from.kept + here, kept);
  return dh;
}

// Where gate g of unit u is in a product with W_hh, (heads, B, 4 H / heads): head by head.
struct ByHead {
  unsigned batch, width;  // units of a head

  __device__ int64 at(unsigned b, unsigned gate, unsigned u) const {
    const unsigned head = u / width;
    return ((int64(head) * batch + b) * 4 + gate) * width + (u - head * width);
  }
};

// Mean and 1 / sqrt(variance + epsilon) of a row of so many numbers; `elements` calls what it gets with each of the
// thread's own.
template <typename T, typename Elements>
__device__ __forceinline__ void mean_and_scale(const Elements& elements, unsigned count, T epsilon, T& mean, T& scale) {
  T sum = T(0), squares = T(0);
  elements([&](T x) { sum += x; });
  mean = over_block<Sum>(sum) / T(count);
  elements([&](T x) { squares += (x - mean) * (x - mean); });
  scale = T(1) / square_root(over_block<Sum>(squares) / T(count) + epsilon);
}

// z becomes the activated gates, c and h of the next slot are written.
template <typename S, int N, bool Normed>
__global__ void family_cells_forward(
    S* z,                                    // (T, B, 4H) the input's share of the pre-activations
    Arithmetic<S>* product,                  // (heads, B, 4 H / heads) h W_hh^T, overwritten; null: z has it already
    Arithmetic<S>* c,                        // (T + 1, B, H), or (1, B, H) where not keep
    Arithmetic<S>* cells,                    // (T, B, H) the new c before zoneout
    S* unprojected,                          // (T, B, H), or (1, B, H) where not keep: m, where that is projected
    S* h,                                    // (T + 1, B, H)
    S* normalised, Arithmetic<S>* scales,    // (T, B, 4H), (T, B) if Normed and keep
    const __grid_constant__ Options<Arithmetic<S>, S> options, const int64* lengths,  // (B,)
    int keep, unsigned heads, unsigned batch, unsigned hidden, S* seen,  // (B, H)
    int64 t, int64 next, int64 before, int64 after) {
  using T = Arithmetic<S>;
  const Place<N> place(batch, hidden);
  if (!Normed && !place.inside) return;
  const unsigned b = Normed ? blockIdx.x : place.b;
  const unsigned first = Normed ? threadIdx.x : place.u, apart = Normed ? blockDim.x : hidden;
  const int64 all = int64(batch) * hidden, row = t * batch + b;
  T* const old_c = c + (keep ? before : 0) * all + int64(b) * hidden;
  T* const after_c = c + (keep ? after : 0) * all + int64(b) * hidden;
  S* const m_row = unprojected ? unprojected + (keep ? t * all : 0) + int64(b) * hidden : nullptr;
  S* const z_row = z + row * 4 * hidden;
  const Leaving<S> leaving = {options, h, seen, t, next, before, after, batch, hidden};
  const ByHead by_head = {batch, hidden / heads};

  if (lengths && t >= lengths[b]) {  // this sequence has no step t
    for (unsigned u = first; u < hidden; u += apart) {
      const Pack<T, N> state = load<N>(old_c + u);
      store<N>(after_c + u, state);
      // What is multiplied by a zero gradient later must not be a NaN that memory held.
      if (cells) store<N>(cells + row * hidden + u, state);
      if (m_row)
        store<N>(m_row + u, Pack<S, N>{});
      else
        leave<T, N>(leaving, b, u, false, state);
    }
    return;
  }
  // The cell of units u..u+N-1: their gates and c are written; m is set unless Normed.
  const auto cell = [&](unsigned u, Gates<Pack<S, N>>& gates, Pack<T, N>& new_c, Pack<T, N>& m, T& o) {
    Pack<T, N> state = load<N>(old_c + u);
    Gates<Pack<T, N>> added;
    if (product) added = load_gates<N>(product + by_head.at(b, 0, u), by_head.width);
    Pack<S, N> shares;
    if (options.zoneout_c) shares = load<N>(options.zoneout_c + row * hidden + u);
    const T alive = options.live ? T(options.live[row]) : T(1);
    gates = load_gates<N>(z_row + u, hidden);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      Gates<T> one = unit<T, N>(gates, k);
      if (product) {
        const Gates<T> more = unit<T, N>(added, k);
        one = {one.i + more.i, one.f + more.f, one.g + more.g, one.o + more.o};
      }
      const T old = state.at[k] * alive, share = options.zoneout_c ? T(shares.at[k]) : options.share_c;
      const Peepholes<T> p = peepholes_of(options, u + k, hidden);
      if (Normed)
        family_gates<T>(options, p, one, old, new_c.at[k]);
      else
        family_forward<T>(options, p, one, old, new_c.at[k], m.at[k]);
      state.at[k] = options.zoneout_c || options.share_c > T(0) ? zoned_out<T>(share, old, new_c.at[k]) : new_c.at[k];
      set_unit<T, N>(gates, k, one);
      o = one.o;
    }
    if (keep) store_gates<N>(z_row + u, hidden, gates);
    if (cells) store<N>(cells + row * hidden + u, new_c);
    store<N>(after_c + u, state);
  };
  // m of those units is there: it is h, unless it is still to be projected.
  const auto finish = [&](unsigned u, const Pack<T, N>& m) {
    if (!m_row) return leave<T, N>(leaving, b, u, true, m);
    Pack<S, N> stored;
#pragma unroll
    for (int k = 0; k < N; ++k) stored.at[k] = S(m.at[k]);
    store<N>(m_row + u, stored);
  };
  Gates<Pack<S, N>> gates;
  Pack<T, N> new_c, m;
  T o;
  if constexpr (!Normed) {
    cell(first, gates, new_c, m, o);
    finish(first, m);
  } else {
    T mean, scale;
    mean_and_scale([&](auto use) {
      for (unsigned u = first; u < hidden; u += apart)
        for (unsigned g = 0; g < 4; ++g) use(product[by_head.at(b, g, u)]);
    }, 4 * hidden, options.epsilon, mean, scale);
    if (scales && threadIdx.x == 0) scales[row] = scale;
    for (unsigned u = first; u < hidden; u += apart) {
      for (unsigned g = 0; g < 4; ++g) {
        T& x = product[by_head.at(b, g, u)];
        const T y = (x - mean) * scale;
        if (normalised) normalised[row * 4 * hidden + g * hidden + u] = S(y);
        x = y * options.gain_hh[g * hidden + u];
      }
      cell(u, gates, new_c, m, o);
      product[by_head.at(b, 0, u)] = new_c.at[0];
      product[by_head.at(b, 1, u)] = o;
    }
    mean_and_scale([&](auto use) {
      for (unsigned u = first; u < hidden; u += apart) use(product[by_head.at(b, 0, u)]);
    }, hidden, options.epsilon, mean, scale);
    for (unsigned u = first; u < hidden; u += apart) {
      const T y = (product[by_head.at(b, 0, u)] - mean) * scale;
      m.at[0] = product[by_head.at(b, 1, u)] * activation<T>(options, y * options.gain_c[u] + options.shift_c[u]);
      finish(u, m);
    }
  }
}

// The gates become dz; dc moves to the step before.
template <typename S, int N, bool Normed>
__global__ void family_cells_backward(
    S* gates,                                // (T, B, 4H)
    S* dz_by_head,                           // (heads, B, 4 H / heads) what W_hh is multiplied by; null: not needed
    const Arithmetic<S>* c,                  // (T + 1, B, H)
    const Arithmetic<S>* cells,              // (T, B, H) null: c of the next slot
    Arithmetic<S>* dm,                       // (B, H) memory if Normed; what arrives at m if that is projected
    const S* dy, const Arithmetic<S>* dcells,  // (T, B, H) from outside; null: zeros
    const Arithmetic<S>* dh,                 // (B, H) dz W_hh of the step after
    Arithmetic<S>* kept, Arithmetic<S>* dc,  // (B, H)
    S* normalised,                           // (T, B, 4H) if Normed: becomes the gradient of h W_hh^T
    const Arithmetic<S>* scales,             // (T, B) if Normed
    Arithmetic<S>* dgain_hh, Arithmetic<S>* dgain_c, Arithmetic<S>* dshift_c,  // (B, 4H), (B, H), (B, H) so far
    const __grid_constant__ Options<Arithmetic<S>, S> options, const int64* lengths,  // (B,)
    int projected, unsigned heads, unsigned batch, unsigned hidden,
    int64 t, int64 done, int64 before, int64 after) {
  using T = Arithmetic<S>;
  const Place<N> place(batch, hidden);
  if (!Normed && !place.inside) return;
  const unsigned b = Normed ? blockIdx.x : place.b;
  const unsigned first = Normed ? threadIdx.x : place.u, apart = Normed ? blockDim.x : hidden;
  const int64 all = int64(batch) * hidden, row = t * batch + b, here = int64(b) * hidden;
  S* const gates_row = gates + row * 4 * hidden;
  S* const y_row = Normed ? normalised + row * 4 * hidden : nullptr;
  const T* const old_c = c + before * all + here;
  const T* const new_c = cells ? cells + row * hidden : c + after * all + here;
  const Arriving<S> arriving = {options, dy, dh, kept, t, done, batch, hidden};
  const ByHead by_head = {batch, hidden / heads};

  if (lengths && t >= lengths[b]) {  // this sequence has no step t
    for (unsigned u = first; u < hidden; u += apart) {
      const Pack<S, N> zeros{};
      store_gates<N>(gates_row + u, hidden, {zeros, zeros, zeros, zeros});
      if (Normed) store_gates<N>(y_row + u, hidden, {zeros, zeros, zeros, zeros});
      if (dz_by_head) store_gates<N>(dz_by_head + by_head.at(b, 0, u), by_head.width, {zeros, zeros, zeros, zeros});
      if (!projected) arrive<T, N>(arriving, b, u, false);
    }
    return;
  }
  // The cell of units u..u+N-1: dz and dc are written. `more` arrives at the new c by another way than m.
  const auto cell = [&](unsigned u, Gates<Pack<S, N>>& dz, const Pack<T, N>& from_m, T more) {
    const Pack<T, N> old = load<N>(old_c + u), fresh = load<N>(new_c + u);
    Pack<T, N> from_c = load<N>(dc + here + u);
    Pack<T, N> outside;
    Pack<S, N> shares;
    if (dcells) outside = load<N>(dcells + row * hidden + u);
    if (options.zoneout_c) shares = load<N>(options.zoneout_c + row * hidden + u);
    const T alive = options.live ? T(options.live[row]) : T(1);
    dz = load_gates<N>(gates_row + u, hidden);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      Gates<T> one = unit<T, N>(dz, k);
      if (dcells) from_c.at[k] += outside.at[k];
      const T stays = (options.zoneout_c ? T(shares.at[k]) : options.share_c) * from_c.at[k];
      T through = from_c.at[k] - stays + more;
      const Peepholes<T> p = peepholes_of(options, u + k, hidden);
      if (Normed)
        family_gates_backward<T>(options, p, one, old.at[k] * alive, fresh.at[k], T(0), through);
      else
        family_backward<T>(options, p, one, old.at[k] * alive, fresh.at[k], from_m.at[k], through);
      from_c.at[k] = (through + stays) * alive;
      set_unit<T, N>(dz, k, one);
    }
    store<N>(dc + here + u, from_c);
  };
  Gates<Pack<S, N>> dz;
  if constexpr (!Normed) {
    cell(first, dz, projected ? load<N>(dm + here + first) : arrive<T, N>(arriving, b, first, true), T(0));
    store_gates<N>(gates_row + first, hidden, dz);
    if (dz_by_head) store_gates<N>(dz_by_head + by_head.at(b, 0, first), by_head.width, dz);
  } else {
    // Through o tanh(u) with u = y gain + shift: o becomes its dz, dm the gradient of y.
    T mean, scale, sum = T(0), along = T(0);
    mean_and_scale([&](auto use) {
      for (unsigned u = first; u < hidden; u += apart) use(new_c[u]);
    }, hidden, options.epsilon, mean, scale);
    for (unsigned u = first; u < hidden; u += apart) {
      const T from_m = projected ? dm[here + u] : arrive<T, N>(arriving, b, u, true).at[0];
      const T o = T(gates_row[3ll * hidden + u]), y = (new_c[u] - mean) * scale;
      const T output = activation<T>(options, y * options.gain_c[u] + options.shift_c[u]);
      const T du = from_m * o * activation_slope<T>(options, output);
      gates_row[3ll * hidden + u] = S(from_m * output * family_slope<T>(options, o));
      dgain_c[here + u] += du * y;
      dshift_c[here + u] += du;
      const T dy_c = du * options.gain_c[u];
      dm[here + u] = dy_c;
      sum += dy_c;
      along += dy_c * y;
    }
    sum = over_block<Sum>(sum) / T(hidden);
    along = over_block<Sum>(along) / T(hidden);
    // Through the rest of the cell, and up to the normalised product.
    T sum_hh = T(0), along_hh = T(0);
    for (unsigned u = first; u < hidden; u += apart) {
      const S dz_o = gates_row[3ll * hidden + u];
      const T y = (new_c[u] - mean) * scale;
      const T peephole = peepholes_of(options, u, hidden).o;
      cell(u, dz, Pack<T, N>{}, scale * (dm[here + u] - (sum + y * along)) + peephole * T(dz_o));
      dz.o.at[0] = dz_o;
      store_gates<N>(gates_row + u, hidden, dz);
      for (unsigned g = 0; g < 4; ++g) {
        const unsigned place_in_row = g * hidden + u;
        const T y_hh = T(y_row[place_in_row]), here_dz = T(gates_row[place_in_row]);
        dgain_hh[4 * here + place_in_row] += here_dz * y_hh;
        sum_hh += here_dz * options.gain_hh[place_in_row];
        along_hh += here_dz * options.gain_hh[place_in_row] * y_hh;
      }
    }
    sum_hh = over_block<Sum>(sum_hh) / T(4 * hidden);
    along_hh = over_block<Sum>(along_hh) / T(4 * hidden);
    for (unsigned u = first; u < hidden; u += apart)
      for (unsigned g = 0; g < 4; ++g) {
        const unsigned place_in_row = g * hidden + u;
        const T dy_hh = T(gates_row[place_in_row]) * options.gain_hh[place_in_row], y_hh = T(y_row[place_in_row]);
        const S dx = S(scales[row] * (dy_hh - (sum_hh + y_hh * along_hh)));
        y_row[place_in_row] = dx;
        if (dz_by_head) dz_by_head[by_head.at(b, g, u)] = dx;
      }
  }
}

// h after its projection, where more than that happens to it.
template <typename S>
__global__ void finish_h(const Arithmetic<S>* projected,  // (B, P)
                         S* h,                            // (T + 1, B, P)
                         const __grid_constant__ Options<Arithmetic<S>, S> options, const int64* lengths,  // (B,)
                         unsigned batch, unsigned size, S* seen,   // (B, P)
                         int64 t, int64 next, int64 before, int64 after) {
  using T = Arithmetic<S>;
  const Place<1> place(batch, size);
  if (!place.inside) return;
  const Leaving<S> leaving = {options, h, seen, t, next, before, after, batch, size};
  const bool valid = !lengths || t < lengths[place.b];
  leave<T, 1>(leaving, place.b, place.u, valid, load<1>(projected + int64(place.b) * size + place.u));
}

// The gradient of h where it arrives at the projection.
template <typename S>
__global__ void begin_dh(S* projected,                                // (T, B, P)
                         const S* dy,                                 // (T, B, P) from outside; null: zeros
                         const Arithmetic<S>* dh,                     // (B, P) dz W_hh of the step after
                         Arithmetic<S>* kept,                         // (B, P)
                         const __grid_constant__ Options<Arithmetic<S>, S> options, const int64* lengths,  // (B,)
                         unsigned batch, unsigned size, int64 t, int64 done) {
  using T = Arithmetic<S>;
  const Place<1> place(batch, size);
  if (!place.inside) return;
  const Arriving<S> arriving = {options, dy, dh, kept, t, done, batch, size};
  const bool valid = !lengths || t < lengths[place.b];
  projected[(t * batch + place.b) * size + place.u] = S(arrive<T, 1>(arriving, place.b, place.u, valid).at[0]);
}
