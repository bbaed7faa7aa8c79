// The shared cell arithmetic (kernels/cell/lstm_cell.h) for one thread: V is a scalar.
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

#include "../cell/lstm_cell.h"
