// Numbers of 16 bits, and float rounded to TF32.
#pragma once
#include <cmath>

#include "machine.h"

struct Half {
  float value;
};
struct BFloat16 {
  float value;
};

inline float half_to_float(u16 bits) { return float(std::bit_cast<_Float16>(bits)); }
inline u16 float_to_half(float x) { return std::isnan(x) ? 0x7fff : std::bit_cast<u16>(_Float16(x)); }
inline float bfloat_to_float(u16 bits) { return as_float(u32(bits) << 16); }
inline u16 float_to_bfloat(float x) {  // to nearest, ties to even
  if (std::isnan(x)) return 0x7fff;
  u32 bits = std::bit_cast<u32>(x);
  return u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline u32 to_tf32(u32 bits) {  // to nearest, ties away from zero
  return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & ~u32(0x1fff);
}

template <> inline Half from_bits<Half>(u64 bits) { return {half_to_float(u16(bits))}; }
template <> inline u64 to_bits<Half>(Half x) { return float_to_half(x.value); }
template <> inline BFloat16 from_bits<BFloat16>(u64 bits) { return {bfloat_to_float(u16(bits))}; }
template <> inline u64 to_bits<BFloat16>(BFloat16 x) { return float_to_bfloat(x.value); }
