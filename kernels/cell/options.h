// The options of the LSTM family, as compiled code takes them, and the cell with them.
//
// Included after lstm_cell.h, under the same conditions. The equations are those of gpu_lstm/recurrence/family.py, whose
// cell_forward and cell_backward these are without layer normalisation, which needs all units of a row at once between
// the gates and m.

// The same for all units and at run time, so that one instance does them all; gpu_lstm/recurrence/packed.py gives them
// in this order. T: of sums and parameters; S: of h. A null pointer is an option that is off.
template <typename T, typename S>
struct Options {
  T clip, cell_clip;  // of what the gates take, and of c; infinity where there is none
  T gate_low, gate_high, g_low, g_high;  // gates i, f, o and g move with their pre-activations between these only
  T share_h, share_c;                    // zoneout where it is one number
  T epsilon;                             // of layer normalisation
  T leak;                                // what the activation is times its argument below 0, where rectified
  int coupled, hard_sigmoid, rectified;
  const T *peepholes, *gain_hh, *gain_c, *shift_c;  // (3, H), (4H,), (H,), (H,)
  const S *zoneout_h, *zoneout_c;                   // (T, B, P), (T, B, H)
  const S *recurrent_mask, *live;                   // (B, P), (T, B)

  static constexpr long numbers = 13;
};

// From so many numbers, and the arrays.
template <typename T, typename S, typename... Arrays>
CELL Options<T, S> options_of(const double* n, Arrays... arrays) {
  return {T(n[0]), T(n[1]), T(n[2]), T(n[3]), T(n[4]),    T(n[5]),     T(n[6]),
          T(n[7]), T(n[8]), T(n[9]), int(n[10]), int(n[11]), int(n[12]), arrays...};
}

// Of the units at hand; all 0 is none.
template <typename V>
struct Peepholes {
  V i, f, o;
};

// x between low and high, else 0, where `of` is a NaN too.
template <typename T, typename V>
CELL V where_between(V of, T low, T high, V x) {
  const V zero = splat<V>(T(0));
  x = of <= splat<V>(low) ? zero : x;
  return of >= splat<V>(high) ? zero : x;
}

template <typename T, typename O, typename V>
CELL V family_gate(const O& options, V z) {
  z = clamp<T>(z, options.clip);
  return options.hard_sigmoid ? clamp<T>(z * T(0.2), T(0.5)) + T(0.5) : sigmoid<T>(z);
}

// Derivative of a gate by its pre-activation, from the activated gate.
template <typename T, typename O, typename V>
CELL V family_slope(const O& options, V gate) {
  const V slope = options.hard_sigmoid ? splat<V>(T(0.2)) : gate * (T(1) - gate);
  return where_between<T>(gate, options.gate_low, options.gate_high, slope);
}

// What g and the output are of their arguments, and its derivative from that. Chosen element by element: a branch would
// let compilers part the code around it, and so fuse other products with sums.
template <typename T, typename O, typename V>
CELL V either(const O& options, V rectified, V otherwise) {
  return splat<V>(T(options.rectified)) > splat<V>(T(0)) ? rectified : otherwise;
}
template <typename T, typename O, typename V>
CELL V activation(const O& options, V x) {
  return either<T>(options, x > splat<V>(T(0)) ? x : x * splat<V>(options.leak), tanh_of<T>(x));
}
template <typename T, typename O, typename V>
CELL V activation_slope(const O& options, V y) {
  const V slope = y > splat<V>(T(0)) ? splat<V>(T(1)) : splat<V>(options.leak);
  return either<T>(options, slope, slope_of_tanh<T>(y));
}

// z becomes the activated gates; c is the new cell state.
template <typename T, typename O, typename V>
CELL void family_gates(const O& options, const Peepholes<V>& p, Gates<V>& z, V c_before, V& c) {
  z.i = family_gate<T>(options, multiply_add<T>(p.i, c_before, z.i));
  z.f = options.coupled ? T(1) - z.i : family_gate<T>(options, multiply_add<T>(p.f, c_before, z.f));
  z.g = activation<T>(options, clamp<T>(z.g, options.clip));
  c = clamp<T>(multiply_add<T>(z.f, c_before, z.i * z.g), options.cell_clip);
  z.o = family_gate<T>(options, multiply_add<T>(p.o, c, z.o));
}

// The same with m, what is projected or is h.
template <typename T, typename O, typename V>
CELL void family_forward(const O& options, const Peepholes<V>& p, Gates<V>& z, V c_before, V& c, V& m) {
  family_gates<T>(options, p, z, c_before, c);
  m = z.o * activation<T>(options, c);
}

// gates become dz; dc, what arrives at c but for the peephole of o, becomes dc of the step before. d_o is all that
// arrives at o.
template <typename T, typename O, typename V>
CELL void family_gates_backward(const O& options, const Peepholes<V>& p, Gates<V>& gates, V c_before, V c, V d_o,
                                V& dc) {
  const Gates<V> a = gates;
  gates.o = d_o * family_slope<T>(options, a.o);
  dc = multiply_add<T>(p.o, gates.o, dc);
  dc = where_between<T>(c, -options.cell_clip, options.cell_clip, dc);
  const V df = dc * c_before, zero = splat<V>(T(0));
  gates.i = multiply_add<T>(dc, a.g, options.coupled ? -df : zero) * family_slope<T>(options, a.i);
  gates.f = options.coupled ? zero : df * family_slope<T>(options, a.f);
  const V slope = activation_slope<T>(options, a.g);
  gates.g = dc * a.i * where_between<T>(a.g, options.g_low, options.g_high, slope);
  dc = multiply_add<T>(p.f, gates.f, multiply_add<T>(p.i, gates.i, dc * a.f));
}

// The same from dm, all that arrives at m, and dc, all else that arrives at c.
template <typename T, typename O, typename V>
CELL void family_backward(const O& options, const Peepholes<V>& p, Gates<V>& gates, V c_before, V c, V dm, V& dc) {
  const V output = activation<T>(options, c);
  dc = multiply_add<T>(dm * gates.o, activation_slope<T>(options, output), dc);
  family_gates_backward<T>(options, p, gates, c_before, c, dm * output, dc);
}

// What stays after zoneout: that share of the old value, the rest of the new one.
template <typename T, typename V>
CELL V zoned_out(V share, V old_value, V new_value) {
  return multiply_add<T>(share, old_value, (T(1) - share) * new_value);
}
