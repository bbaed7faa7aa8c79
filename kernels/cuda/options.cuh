// What the cells of the sequence kernels do: those of the plain LSTM, or of the family, gpu_lstm/recurrence/family.py,
// but for projections and heads. The loop over time calls the same functions of both.

template <typename S>
struct Plain {
  using T = Arithmetic<S>;
  static constexpr bool plain = true, normed = false;
  static constexpr int fewer_held = 0;
  struct Ahead {};

  // What of the step's inputs is loaded before the wait for other blocks; h is the one before the step.
  __device__ Ahead ahead_forward(const Spot&, const S*) const { return {}; }
  __device__ Ahead ahead_backward(const Spot&) const { return {}; }
  // What step spot.t multiplies by W_hh of an h, and what comes back to h of the product's gradient.
  template <typename V>
  __device__ __forceinline__ V seen(V h, const Spot&) const {
    return h;
  }
  // z becomes the activated gates, state the next c; h is made.
  __device__ __forceinline__ void forward(const Spot&, const Ahead&, Gates<T>& z, T& state, T& h) const {
    T next;
    cell_forward<InCell<S>>(z, state, next, h);
    state = next;
  }
  // At a step that the sequence doesn't have.
  __device__ void pass(const Spot&, T) const {}
  // The c that the output took, of the c after the step.
  __device__ __forceinline__ T new_c(const Spot&, const T* after) const { return *after; }
  // What W_hh is multiplied by in backward.
  __device__ S* multiplied(S* dz) const { return dz; }
  // gates become dz; from_h, that of h, what passes by the product, from_c, that of c, all that arrives at the c before.
  // dy comes from outside.
  __device__ __forceinline__ void backward(const Spot&, const Ahead&, Gates<T>& gates, T c_before, T c_after, T dy,
                                           T& from_h, T& from_c) const {
    cell_backward<InCell<S>>(gates, c_before, c_after, from_h + dy, from_c);
    from_h = T(0);
  }
};

template <typename S>
struct Family : Options<Arithmetic<S>, S> {
  using T = Arithmetic<S>;
  static constexpr bool plain = false, normed = false;
  static constexpr int fewer_held = 2;

  T* cells;         // (T, B, H) the new c before zoneout; may be null
  const T* dcells;  // (T, B, H) from outside; may be null

  struct Ahead {
    T share_h, share_c, old_h, dc;
  };

  __device__ __forceinline__ Ahead ahead_forward(const Spot& spot, const S* h) const {
    Ahead ahead = shares(spot);
    ahead.old_h = this->zoneout_h || this->share_h > T(0) ? T(*h) : T(0);
    return ahead;
  }
  __device__ __forceinline__ Ahead ahead_backward(const Spot& spot) const {
    Ahead ahead = shares(spot);
    ahead.dc = dcells ? dcells[spot.at()] : T(0);
    return ahead;
  }
  template <typename V>
  __device__ __forceinline__ V seen(V h, const Spot& spot) const {
    if (this->recurrent_mask) h = V(T(h) * T(this->recurrent_mask[spot.cell()]) * alive(spot));
    else if (this->live) h = V(T(h) * alive(spot));
    return h;
  }
  __device__ __forceinline__ void forward(const Spot& spot, const Ahead& ahead, Gates<T>& z, T& state, T& h) const {
    const T lives = alive(spot), old = state * lives;
    T fresh;
    const auto p = peepholes_of(*this, spot.unit, spot.hidden);
    family_forward<InCell<S>>(*this, p, z, old, fresh, h);
    pass(spot, fresh);
    state = zoned_out<T>(ahead.share_c, old, fresh);
    h = zoned_out<T>(ahead.share_h, ahead.old_h * lives, h);
  }
  // What is multiplied by a zero gradient later must not be a NaN that memory held.
  __device__ __forceinline__ void pass(const Spot& spot, T c) const {
    if (cells) cells[spot.at()] = c;
  }
  __device__ __forceinline__ T new_c(const Spot& spot, const T* after) const { return cells ? cells[spot.at()] : *after; }
  __device__ S* multiplied(S* dz) const { return dz; }
  __device__ __forceinline__ void backward(const Spot& spot, const Ahead& ahead, Gates<T>& gates, T c_before, T c_after,
                                           T dy, T& from_h, T& from_c) const {
    const T lives = alive(spot), dh = from_h + dy, old_h = ahead.share_h * dh;
    from_c += ahead.dc;
    const T old_c = ahead.share_c * from_c;
    from_c -= old_c;
    const auto p = peepholes_of(*this, spot.unit, spot.hidden);
    family_backward<InCell<S>>(*this, p, gates, c_before * lives, c_after, dh - old_h, from_c);
    from_h = old_h * lives;
    from_c = (from_c + old_c) * lives;
  }

 protected:
  __device__ __forceinline__ T alive(const Spot& spot) const { return this->live ? T(this->live[spot.row()]) : T(1); }
  __device__ __forceinline__ Ahead shares(const Spot& spot) const {
    return {this->zoneout_h ? T(this->zoneout_h[spot.at()]) : this->share_h,
            this->zoneout_c ? T(this->zoneout_c[spot.at()]) : this->share_c, T(0), T(0)};
  }
};

// With layer normalisation. A cell is done in parts then, because sums over all units of a row come between them, over
// the whole team (RowSums in rows.cuh).
template <typename S>
struct Normed : Family<S> {
  using T = Arithmetic<S>;
  using Base = Family<S>;
  static constexpr bool normed = true;
  static constexpr int fewer_held = sizeof(S) == 8 ? 6 : 4;

  S* normalised;                  // (T, B, 4H) h W_hh^T normalised, if kept
  T *scales, *c_means, *c_scales;  // (T, B) what did it; of c, its mean, too
  S* dz_hh;                       // (T, B, 4H) the gradient of h W_hh^T; may be normalised
  T *dgain_hh, *dgain_c, *dshift_c;  // (B, 4H), (B, H), (B, H) by sequence, so far
  T* handed;                      // for Grid: (2, T, B, members, 2) what blocks hand each other, all bits set

  struct Ahead : Base::Ahead {
    Gates<T> y;
    T scale, c_mean, c_scale;
  };

  __device__ __forceinline__ Ahead ahead_forward(const Spot& spot, const S* h) const {
    return {Base::ahead_forward(spot, h)};
  }
  __device__ __forceinline__ Ahead ahead_backward(const Spot& spot) const {
    const S* const y = normalised + spot.row() * 4 * spot.hidden + spot.unit;
    return {Base::ahead_backward(spot), load_gates<T>(y, spot.hidden), scales[spot.row()], c_means[spot.row()],
            c_scales[spot.row()]};
  }

  // z and x, the product, with the moments of its row, become the activated gates; c is made. Step and sequence are
  // there where `valid`: else nothing is kept.
  __device__ __forceinline__ void gates_forward(const Spot& spot, Gates<T> x, T mean, T scale, bool valid, Gates<T>& z,
                                                T state, T& c) const {
    x = {(x.i - mean) * scale, (x.f - mean) * scale, (x.g - mean) * scale, (x.o - mean) * scale};
    if (normalised && valid) {
      store_gates(normalised + spot.row() * 4 * spot.hidden + spot.unit, spot.hidden, x);
      if (spot.unit == 0) scales[spot.row()] = scale;
    }
    const Gates<T> gain = load_gates<T>(this->gain_hh + spot.unit, spot.hidden);
    z = {z.i + x.i * gain.i, z.f + x.f * gain.f, z.g + x.g * gain.g, z.o + x.o * gain.o};
    const auto p = peepholes_of(*this, spot.unit, spot.hidden);
    family_gates<InCell<S>>(*this, p, z, state * this->alive(spot), c);
  }
  // h, and the c after the step, from the moments of c.
  __device__ __forceinline__ void finish(const Spot& spot, const Ahead& ahead, const Gates<T>& gates, T c, T mean, T scale,
                                         T& state, T& h) const {
    if (normalised && spot.unit == 0) c_means[spot.row()] = mean, c_scales[spot.row()] = scale;
    const T lives = this->alive(spot);
    h = gates.o * activation<InCell<S>>(*this, (c - mean) * scale * this->gain_c[spot.unit] + this->shift_c[spot.unit]);
    h = zoned_out<T>(ahead.share_h, ahead.old_h * lives, h);
    this->pass(spot, c);
    state = zoned_out<T>(ahead.share_c, state * lives, c);
  }

  // Through o tanh(u): d_o is what arrives at o, the result what arrives at y, of u = y gain + shift.
  __device__ __forceinline__ T output_backward(const Spot& spot, const Ahead& ahead, const Gates<T>& gates, T c, T dy,
                                               T& from_h, T& d_o) const {
    const T y = (c - ahead.c_mean) * ahead.c_scale, gain = this->gain_c[spot.unit];
    const T output = activation<InCell<S>>(*this, y * gain + this->shift_c[spot.unit]);
    const T dh = from_h + dy, old_h = ahead.share_h * dh;
    const T du = (dh - old_h) * gates.o * activation_slope<T>(*this, output);
    from_h = old_h * this->alive(spot);
    d_o = (dh - old_h) * output;
    dgain_c[spot.cell()] += du * y;
    dshift_c[spot.cell()] += du;
    return du * gain;
  }
  // Through the rest of the cell, with the means of dy_c and of dy_c y over the row of c: gates become dz.
  __device__ __forceinline__ void gates_backward(const Spot& spot, const Ahead& ahead, Gates<T>& gates, T c_before, T c,
                                                 T dy_c, T mean, T along, T d_o, T& from_c) const {
    const T lives = this->alive(spot), y = (c - ahead.c_mean) * ahead.c_scale;
    from_c += ahead.dc;
    const T old_c = ahead.share_c * from_c;
    from_c += ahead.c_scale * (dy_c - (mean + y * along)) - old_c;
    const auto p = peepholes_of(*this, spot.unit, spot.hidden);
    family_gates_backward<InCell<S>>(*this, p, gates, c_before * lives, c, d_o, from_c);
    from_c = (from_c + old_c) * lives;
    T* const dgain = dgain_hh + 4 * spot.cell() - 3 * int64(spot.unit);
    dgain[0] += gates.i * ahead.y.i;
    dgain[spot.hidden] += gates.f * ahead.y.f;
    dgain[2ll * spot.hidden] += gates.g * ahead.y.g;
    dgain[3ll * spot.hidden] += gates.o * ahead.y.o;
  }
  __device__ S* multiplied(S*) const { return dz_hh; }
  // What arrives at the normalised product.
  __device__ __forceinline__ Gates<T> times_gain(const Spot& spot, const Gates<T>& dz) const {
    const Gates<T> gain = load_gates<T>(this->gain_hh + spot.unit, spot.hidden);
    return {dz.i * gain.i, dz.f * gain.f, dz.g * gain.g, dz.o * gain.o};
  }
  // The gradient of h W_hh^T, with the means of times_gain and of that along y over the row.
  __device__ __forceinline__ Gates<T> product_backward(const Spot& spot, const Ahead& ahead, const Gates<T>& dz, T mean,
                                                       T along) const {
    const Gates<T> dy = times_gain(spot, dz), &y = ahead.y;
    return {ahead.scale * (dy.i - (mean + y.i * along)), ahead.scale * (dy.f - (mean + y.f * along)),
            ahead.scale * (dy.g - (mean + y.g * along)), ahead.scale * (dy.o - (mean + y.o * along))};
  }
};
