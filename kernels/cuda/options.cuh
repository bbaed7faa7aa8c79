// What the cells of the sequence kernels do: those of the plain LSTM, or of the family, gpu_lstm/recurrence/family.py,
// but for projections and heads. The loop over time calls the same functions of both.

// A cell of a step.
struct Spot {
  int64 t;
  unsigned batch, hidden, sequence, unit;

  __device__ int64 row() const { return t * batch + sequence; }           // in (T, B)
  __device__ int64 at() const { return row() * hidden + unit; }           // in (T, B, H)
  __device__ int64 cell() const { return int64(sequence) * hidden + unit; }  // in (B, H)
};

template <typename S>
struct Plain {
  using T = Arithmetic<S>;
  static constexpr bool plain = true;
  static constexpr int fewer_held = 0;
  static constexpr unsigned threads = THREADS<S>;
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
    cell_forward<T>(z, state, next, h);
    state = next;
  }
  // At a step that the sequence doesn't have.
  __device__ void pass(const Spot&, T) const {}
  // The c that the output took, of the c after the step.
  __device__ __forceinline__ T new_c(const Spot&, const T* after) const { return *after; }
  // gates become dz; from_h, that of h, what passes by the product, from_c, that of c, all that arrives at the c before.
  // dy comes from outside.
  __device__ __forceinline__ void backward(const Spot&, const Ahead&, Gates<T>& gates, T c_before, T c_after, T dy,
                                           T& from_h, T& from_c) const {
    cell_backward<T>(gates, c_before, c_after, from_h + dy, from_c);
    from_h = T(0);
  }
};

// A null pointer is an option that is off.
template <typename S>
struct Family {
  using T = Arithmetic<S>;
  static constexpr bool plain = false;
  static constexpr int fewer_held = 2;
  static constexpr unsigned threads = sizeof(T) == 8 ? 256 : THREADS<S>;

  const T* peepholes;                  // (3, H)
  const T *gain_hh, *gain_c, *shift_c;
  const S *zoneout_h, *zoneout_c;      // (T, B, H)
  const S* recurrent_mask;             // (B, H)
  const S* live;                       // (T, B)
  T share_h, share_c;                  // zoneout where it is one number
  T clip, cell_clip, gate_low, gate_high, g_high, epsilon;
  int coupled, hard_sigmoid;
  T* cells;                            // (T, B, H) the new c before zoneout
  const T* dcells;                     // (T, B, H) from outside

  struct Ahead {
    T share_h, share_c, old_h, dc;
  };

  __device__ __forceinline__ Ahead ahead_forward(const Spot& spot, const S* h) const {
    Ahead ahead = shares(spot);
    ahead.old_h = zoneout_h || share_h > T(0) ? T(*h) : T(0);
    return ahead;
  }
  __device__ __forceinline__ Ahead ahead_backward(const Spot& spot) const {
    Ahead ahead = shares(spot);
    ahead.dc = dcells ? dcells[spot.at()] : T(0);
    return ahead;
  }
  template <typename V>
  __device__ __forceinline__ V seen(V h, const Spot& spot) const {
    if (recurrent_mask) h = V(T(h) * T(recurrent_mask[spot.cell()]) * alive(spot));
    else if (live) h = V(T(h) * alive(spot));
    return h;
  }
  __device__ __forceinline__ void forward(const Spot& spot, const Ahead& ahead, Gates<T>& z, T& state, T& h) const {
    const T lives = alive(spot), old = state * lives;
    T fresh;
    family_forward<T>(numbers(), peepholes_of(spot), z, old, fresh, h);
    pass(spot, fresh);
    state = zoned_out<T>(ahead.share_c, old, fresh);
    h = zoned_out<T>(ahead.share_h, ahead.old_h * lives, h);
  }
  // What is multiplied by a zero gradient later must not be a NaN that memory held.
  __device__ __forceinline__ void pass(const Spot& spot, T c) const {
    if (cells) cells[spot.at()] = c;
  }
  __device__ __forceinline__ T new_c(const Spot& spot, const T* after) const { return cells ? cells[spot.at()] : *after; }
  __device__ __forceinline__ void backward(const Spot& spot, const Ahead& ahead, Gates<T>& gates, T c_before, T c_after,
                                           T dy, T& from_h, T& from_c) const {
    const T lives = alive(spot), dh = from_h + dy, old_h = ahead.share_h * dh;
    from_c += ahead.dc;
    const T old_c = ahead.share_c * from_c;
    from_c -= old_c;
    family_backward<T>(numbers(), peepholes_of(spot), gates, c_before * lives, c_after, dh - old_h, from_c);
    from_h = old_h * lives;
    from_c = (from_c + old_c) * lives;
  }

 private:
  __device__ __forceinline__ T alive(const Spot& spot) const { return live ? T(live[spot.row()]) : T(1); }
  __device__ __forceinline__ Ahead shares(const Spot& spot) const {
    return {zoneout_h ? T(zoneout_h[spot.at()]) : share_h, zoneout_c ? T(zoneout_c[spot.at()]) : share_c, T(0), T(0)};
  }
  __device__ __forceinline__ CellOptions<T> numbers() const {
    return {clip, cell_clip, gate_low, gate_high, g_high, coupled != 0, hard_sigmoid != 0};
  }
  __device__ __forceinline__ Peepholes<T> peepholes_of(const Spot& spot) const {
    if (!peepholes) return {T(0), T(0), T(0)};
    return {peepholes[spot.unit], peepholes[spot.hidden + spot.unit], peepholes[2ll * spot.hidden + spot.unit]};
  }
};
