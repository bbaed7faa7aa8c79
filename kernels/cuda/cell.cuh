// The shared cell arithmetic (kernels/cell) for one thread: V is a scalar.
//
// Largest error in float32, denormals flushed as CuPy has it: see kernels/cuda/README.md.

#define CELL __device__ __forceinline__

template <typename V, typename T>
CELL V splat(T value) {
  return V(value);
}

// t = k + magic holds k in its lowest bits: shifted into the exponent, it multiplies 1.0 by 2^k.
template <typename T>
CELL float power_of_two(float t) {
  return __int_as_float((__float_as_int(t) << 23) + 0x3f800000);
}

template <typename T>
CELL double power_of_two(double t) {
  return __longlong_as_double((__double_as_longlong(t) << 52) + 0x3ff0000000000000ll);
}

// 1/x to an ulp, for 2^-126 <= |x| <= 2^126; 0 for infinity.
CELL float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The division of IEEE 754 takes several times the instructions, for numbers that these are not.
template <typename T>
CELL float quotient(float a, float b) {
  const float y = reciprocal(b), q = a * y;
  return fmaf(fmaf(-b, q, a), y, q);
}
template <typename T>
CELL double quotient(double a, double b) {
  return a / b;
}

template <typename T>
CELL float multiply_add(float a, float b, float c) {
  return fmaf(a, b, c);
}
template <typename T>
CELL double multiply_add(double a, double b, double c) {
  return fma(a, b, c);
}

#include "../cell/lstm_cell.h"
#include "../cell/options.h"

template <typename T, typename S>
CELL Peepholes<T> peepholes_of(const Options<T, S>& options, unsigned u, unsigned hidden) {
  const T* const from = options.peepholes;
  if (!from) return {T(0), T(0), T(0)};
  return {from[u], from[hidden + u], from[2ll * hidden + u]};
}

// float for what is stored in 16 bits: exponential and reciprocal of the special function units as they are, off by 1e-6
// of the value, 2e-5 where it is next to nothing.
struct Brief {
  float value;

  CELL constexpr Brief(float value) : value(value) {}
  CELL constexpr operator float() const { return value; }
};

template <>
CELL float sigmoid<Brief>(float x) {
  return reciprocal(1.0f + __expf(-x));
}

// Near 0, where the quotient would have no digits left, x - x^3/3 + 2 x^5/15.
template <>
CELL float tanh_of<Brief>(float x) {
  const float square = x * x, far = fmaf(-2.0f, reciprocal(__expf(2.0f * x) + 1.0f), 1.0f);
  return fabsf(x) < 0.1f ? fmaf(x * square, fmaf(square, 2.0f / 15.0f, -1.0f / 3.0f), x) : far;
}

// What a cell is computed with whose gates and h are stored as S.
template <typename T, unsigned Bytes>
struct CellOf {
  using type = T;
};
template <typename T>
struct CellOf<T, 2> {
  using type = Brief;
};
template <typename S>
using InCell = typename CellOf<Arithmetic<S>, sizeof(S)>::type;
