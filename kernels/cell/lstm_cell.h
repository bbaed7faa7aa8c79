// The arithmetic of one LSTM cell, forward and backward: the one source for every compiled kernel.
//
// Everything is a template over V, the values that are computed on at once: a scalar on a GPU thread, a vector
// register of scalars T on a CPU. Before including this file, define
//
//   CELL                                  how its functions are declared (inline, __device__, ...)
//   V splat<V>(T)                         all elements of a V set to one number
//   V power_of_two<T>(V t)                2^k from t = k + Constants<T>::magic
//   V quotient<T>(V a, V b)               a / b for b of 1 and more, to an ulp
//   V multiply_add<T>(V a, V b, V c)      a b + c, rounded once where the instruction set can
//
// Every sum with a product in it is a multiply_add here: of a b + c d a compiler may fuse either product, in each kernel
// another, and kernels would not agree to the last bit.
//
// No include guard and no headers: a CPU build includes it once for each instruction set, inside a namespace, and
// NVRTC has no headers. Vectors must not be lowered before they are inlined into code of their instruction set.

#ifdef __CUDACC__
#define CELL_UNROLL _Pragma("unroll")
#else
#define CELL_UNROLL _Pragma("GCC unroll 16")
#endif

template <typename T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.428606765330187e-6f;
  static constexpr float exp_limit = 87.0f, tanh_limit = 10.0f;
  static constexpr int terms = 7;
};

template <>
struct Constants<double> {
  static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 0.693147180369123816490, ln2_low = 1.90821492927058770002e-10;
  static constexpr double exp_limit = 708.0, tanh_limit = 20.0;
  static constexpr int terms = 13;
};

template <typename T>
struct InverseFactorials {
  T of[Constants<T>::terms + 1];
};

// 1/n! for each n. A constant, because NVRTC divides no constants by itself.
template <typename T>
CELL constexpr InverseFactorials<T> inverse_factorials() {
  InverseFactorials<T> inverse = {{T(1)}};
  for (int n = 1; n <= Constants<T>::terms; ++n) inverse.of[n] = inverse.of[n - 1] / n;
  return inverse;
}

// x limited to [-limit, limit]; a NaN stays one.
template <typename T, typename V>
CELL V clamp(V x, T limit) {
  const V low = splat<V>(-limit), high = splat<V>(limit);
  x = x < low ? low : x;
  return x > high ? high : x;
}

// e^x - 1 for |x| <= exp_limit: x = k ln 2 + r with |r| <= ln 2 / 2, a Taylor polynomial of e^r - 1, scaled by 2^k.
// The polynomial has no constant term, so that the relative error stays small near 0.
template <typename T, typename V>
CELL V exp_minus_1(V x) {
  using C = Constants<T>;
  const V t = multiply_add<T>(x, splat<V>(T(1.44269504088896340736)), splat<V>(C::magic));
  const V k = t - C::magic;
  const V r = multiply_add<T>(k, splat<V>(-C::ln2_low), multiply_add<T>(k, splat<V>(-C::ln2_high), x));
  constexpr InverseFactorials<T> inverse = inverse_factorials<T>();
  V p = splat<V>(inverse.of[C::terms]);
  CELL_UNROLL
  for (int n = C::terms - 1; n >= 1; --n) p = multiply_add<T>(p, r, splat<V>(inverse.of[n]));
  const V scale = power_of_two<T>(t);
  return multiply_add<T>(scale, p * r, scale - T(1));
}

// 1 / (1 + e^-x). Beyond |x| = exp_limit it stays at its value there.
template <typename T, typename V>
CELL V sigmoid(V x) {
  return quotient<T>(splat<V>(T(1)), exp_minus_1<T>(clamp<T>(-x, Constants<T>::exp_limit)) + T(2));
}

// (e^2x - 1) / (e^2x + 1); exactly 1 in magnitude from tanh_limit on, where the true value rounds to it.
template <typename T, typename V>
CELL V tanh_of(V x) {
  const V e = exp_minus_1<T>(clamp<T>(x, Constants<T>::tanh_limit) * T(2));
  return quotient<T>(e, e + T(2));
}

// The four gates of some hidden units: pre-activations z, activated gates, or gradients dz.
template <typename V>
struct Gates {
  V i, f, g, o;
};

// z becomes the activated gates; c and h are the new state.
template <typename T, typename V>
CELL void cell_forward(Gates<V>& z, V c_before, V& c, V& h) {
  z.i = sigmoid<T>(z.i);
  z.f = sigmoid<T>(z.f);
  z.g = tanh_of<T>(z.g);
  z.o = sigmoid<T>(z.o);
  c = multiply_add<T>(z.f, c_before, z.i * z.g);
  h = z.o * tanh_of<T>(c);
}

// 1 - x^2.
template <typename T, typename V>
CELL V slope_of_tanh(V x) {
  return multiply_add<T>(-x, x, splat<V>(T(1)));
}

// gates become dz; dc, all that arrives at c, becomes dc of the step before. dh is all that arrives at h.
template <typename T, typename V>
CELL void cell_backward(Gates<V>& gates, V c_before, V c, V dh, V& dc) {
  const Gates<V> a = gates;
  const V tanh_c = tanh_of<T>(c);
  dc = multiply_add<T>(dh * a.o, slope_of_tanh<T>(tanh_c), dc);
  gates.i = dc * a.g * a.i * (T(1) - a.i);
  gates.f = dc * c_before * a.f * (T(1) - a.f);
  gates.g = dc * a.i * slope_of_tanh<T>(a.g);
  gates.o = dh * tanh_c * a.o * (T(1) - a.o);
  dc = dc * a.f;
}
