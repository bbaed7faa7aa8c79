// __half and __nv_bfloat16: storage of 16 bits, conversions that round to nearest even, arithmetic rounded once.
#pragma once

namespace emulator {

// To float with the last bit telling whether anything was lost ("round to odd"): rounding that again to fewer bits
// gives what rounding x once would have given.
inline float to_odd_float(double x) {
  const float f = (float)x;
  if ((double)f == x || x != x) return f;
  uint32_t bits = bits_as<uint32_t>(f);
  if (std::fabs((double)f) > std::fabs(x)) --bits;  // towards zero
  return bits_as<float>(bits | 1u);
}

// a * b + c in double, rounded to odd; a * b must be exact.
inline double odd_sum(double product, double c) {
  const double sum = product + c, from_c = sum - product;
  const double error = (product - (sum - from_c)) + (c - from_c);
  uint64_t bits = bits_as<uint64_t>(sum);
  if (error == 0.0 || error != error || bits & 1) return sum;
  const bool away = (error > 0) == (sum > 0);  // the true sum is larger in magnitude
  return bits_as<double>(away ? bits + 1 : bits - 1);
}

struct Binary16 {
  static float decode(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits_as<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude < 0x0400u) {  // subnormal: a multiple of 2^-24
      const float value = (float)magnitude * 5.9604644775390625e-8f;
      return bits_as<float>(sign | bits_as<uint32_t>(value));
    }
    return bits_as<float>(sign | ((magnitude << 13) + 0x38000000u));
  }
  static uint16_t encode(float f) {
    const uint32_t bits = bits_as<uint32_t>(f), magnitude = bits & 0x7fffffffu;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    if (magnitude > 0x7f800000u) return 0x7fff;                       // NaN
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);  // rounds to 2^16 or more
    if (magnitude < 0x38800000u) {                                    // below 2^-14: 0.5 has a unit of 2^-24
      const float sum = bits_as<float>(magnitude) + 0.5f;
      return (uint16_t)(sign | (bits_as<uint32_t>(sum) - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (rounded - 0x38000000u) >> 13);
  }
};

struct Bfloat16 {
  static float decode(uint16_t h) { return bits_as<float>((uint32_t)h << 16); }
  static uint16_t encode(float f) {
    const uint32_t bits = bits_as<uint32_t>(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // NaN
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
};

// A number of 16 bits. The product of two is exact in float, and float has more than twice their digits, so that
// + - * / and square roots taken in float and rounded again are rounded right.
template <typename Format>
struct Float16 {
  uint16_t bits;

  Float16() = default;
  Float16(float f) : bits(Format::encode(f)) {}
  Float16(double d) : bits(Format::encode(to_odd_float(d))) {}
  template <typename I, typename = std::enable_if_t<std::is_integral_v<I>>>
  Float16(I i) : Float16((double)i) {}
  operator float() const { return Format::decode(bits); }

  friend Float16 operator+(Float16 a, Float16 b) { return (float)a + (float)b; }
  friend Float16 operator-(Float16 a, Float16 b) { return (float)a - (float)b; }
  friend Float16 operator*(Float16 a, Float16 b) { return (float)a * (float)b; }
  friend Float16 operator/(Float16 a, Float16 b) { return (float)a / (float)b; }
  friend Float16 operator-(Float16 a) { return from_bits((uint16_t)(a.bits ^ 0x8000u)); }
  friend Float16& operator+=(Float16& a, Float16 b) { return a = a + b; }
  friend Float16& operator-=(Float16& a, Float16 b) { return a = a - b; }
  friend Float16& operator*=(Float16& a, Float16 b) { return a = a * b; }
  friend Float16& operator/=(Float16& a, Float16 b) { return a = a / b; }
  friend bool operator==(Float16 a, Float16 b) { return (float)a == (float)b; }
  friend bool operator!=(Float16 a, Float16 b) { return (float)a != (float)b; }
  friend bool operator<(Float16 a, Float16 b) { return (float)a < (float)b; }
  friend bool operator>(Float16 a, Float16 b) { return (float)a > (float)b; }
  friend bool operator<=(Float16 a, Float16 b) { return (float)a <= (float)b; }
  friend bool operator>=(Float16 a, Float16 b) { return (float)a >= (float)b; }

  static Float16 from_bits(uint16_t bits) {
    Float16 value;
    value.bits = bits;
    return value;
  }
};

template <typename Format>
struct __align__(4) Float16Pair {
  Float16<Format> x, y;

  friend Float16Pair operator+(Float16Pair a, Float16Pair b) { return {a.x + b.x, a.y + b.y}; }
  friend Float16Pair operator-(Float16Pair a, Float16Pair b) { return {a.x - b.x, a.y - b.y}; }
  friend Float16Pair operator*(Float16Pair a, Float16Pair b) { return {a.x * b.x, a.y * b.y}; }
  friend Float16Pair operator/(Float16Pair a, Float16Pair b) { return {a.x / b.x, a.y / b.y}; }
};

}  // namespace emulator

using __half = emulator::Float16<emulator::Binary16>;
using __half2 = emulator::Float16Pair<emulator::Binary16>;
using __nv_bfloat16 = emulator::Float16<emulator::Bfloat16>;
using __nv_bfloat162 = emulator::Float16Pair<emulator::Bfloat16>;
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

// ---- names that both formats share

#define EMULATOR_16     \
  template <typename F> \
  EMULATOR_INLINE
#define EMULATOR_NUMBER emulator::Float16<F>
#define EMULATOR_PAIR emulator::Float16Pair<F>
EMULATOR_16 EMULATOR_NUMBER __hadd(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return a + b; }
EMULATOR_16 EMULATOR_NUMBER __hsub(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return a - b; }
EMULATOR_16 EMULATOR_NUMBER __hmul(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return a * b; }
EMULATOR_16 EMULATOR_NUMBER __hdiv(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return a / b; }
EMULATOR_16 EMULATOR_NUMBER __hneg(EMULATOR_NUMBER a) { return -a; }
EMULATOR_16 EMULATOR_NUMBER __habs(EMULATOR_NUMBER a) { return EMULATOR_NUMBER::from_bits(a.bits & 0x7fff); }
EMULATOR_16 EMULATOR_NUMBER __hfma(EMULATOR_NUMBER a, EMULATOR_NUMBER b, EMULATOR_NUMBER c) {
  return emulator::odd_sum((double)(float)a * (double)(float)b, (double)(float)c);
}
EMULATOR_16 EMULATOR_NUMBER __hmax(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return fmaxf(a, b); }
EMULATOR_16 EMULATOR_NUMBER __hmin(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return fminf(a, b); }
EMULATOR_16 bool __heq(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return a == b; }
EMULATOR_16 bool __hne(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return a != b && a == a && b == b; }
EMULATOR_16 bool __hlt(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return a < b; }
EMULATOR_16 bool __hle(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return a <= b; }
EMULATOR_16 bool __hgt(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return a > b; }
EMULATOR_16 bool __hge(EMULATOR_NUMBER a, EMULATOR_NUMBER b) { return a >= b; }
EMULATOR_16 bool __hisnan(EMULATOR_NUMBER a) { return a != a; }
EMULATOR_16 int __hisinf(EMULATOR_NUMBER a) { return std::isinf((float)a) ? ((float)a > 0 ? 1 : -1) : 0; }
EMULATOR_16 EMULATOR_NUMBER hexp(EMULATOR_NUMBER a) { return expf(a); }
EMULATOR_16 EMULATOR_NUMBER hlog(EMULATOR_NUMBER a) { return logf(a); }
EMULATOR_16 EMULATOR_NUMBER hsqrt(EMULATOR_NUMBER a) { return sqrtf(a); }
EMULATOR_16 EMULATOR_NUMBER hrcp(EMULATOR_NUMBER a) { return 1.0f / (float)a; }
EMULATOR_16 EMULATOR_NUMBER htanh(EMULATOR_NUMBER a) { return tanhf(a); }

EMULATOR_16 EMULATOR_PAIR __hadd2(EMULATOR_PAIR a, EMULATOR_PAIR b) { return a + b; }
EMULATOR_16 EMULATOR_PAIR __hsub2(EMULATOR_PAIR a, EMULATOR_PAIR b) { return a - b; }
EMULATOR_16 EMULATOR_PAIR __hmul2(EMULATOR_PAIR a, EMULATOR_PAIR b) { return a * b; }
EMULATOR_16 EMULATOR_PAIR __h2div(EMULATOR_PAIR a, EMULATOR_PAIR b) { return a / b; }
EMULATOR_16 EMULATOR_PAIR __hneg2(EMULATOR_PAIR a) { return {-a.x, -a.y}; }
EMULATOR_16 EMULATOR_PAIR __hfma2(EMULATOR_PAIR a, EMULATOR_PAIR b, EMULATOR_PAIR c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
EMULATOR_16 EMULATOR_PAIR __hmax2(EMULATOR_PAIR a, EMULATOR_PAIR b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
EMULATOR_16 EMULATOR_PAIR __hmin2(EMULATOR_PAIR a, EMULATOR_PAIR b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
EMULATOR_16 float __low2float(EMULATOR_PAIR a) { return a.x; }
EMULATOR_16 float __high2float(EMULATOR_PAIR a) { return a.y; }
#undef EMULATOR_16
#undef EMULATOR_NUMBER
#undef EMULATOR_PAIR

// ---- names that each format has for itself: `name` is half or bfloat16

#define EMULATOR_FLOAT16(T, T2, name)                                                            \
  EMULATOR_INLINE float __##name##2float(T a) { return a; }                                      \
  EMULATOR_INLINE int __##name##2int_rn(T a) { return __float2int_rn(a); }                       \
  EMULATOR_INLINE int __##name##2int_rz(T a) { return __float2int_rz(a); }                       \
  EMULATOR_INLINE T __float2##name(float f) { return f; }                                        \
  EMULATOR_INLINE T __float2##name##_rn(float f) { return f; }                                   \
  EMULATOR_INLINE T __double2##name(double d) { return d; }                                      \
  EMULATOR_INLINE T __int2##name##_rn(int i) { return i; }                                       \
  EMULATOR_INLINE unsigned short __##name##_as_ushort(T a) { return a.bits; }                    \
  EMULATOR_INLINE short __##name##_as_short(T a) { return (short)a.bits; }                       \
  EMULATOR_INLINE T __ushort_as_##name(unsigned short bits) { return T::from_bits(bits); }       \
  EMULATOR_INLINE T __short_as_##name(short bits) { return T::from_bits((unsigned short)bits); } \
  EMULATOR_INLINE T2 __##name##2##name##2(T a) { return {a, a}; }                                \
  EMULATOR_INLINE T2 __halves2##name##2(T low, T high) { return {low, high}; }                   \
  EMULATOR_INLINE T2 make_##name##2(T low, T high) { return {low, high}; }                       \
  EMULATOR_INLINE T __low2##name(T2 a) { return a.x; }                                           \
  EMULATOR_INLINE T __high2##name(T2 a) { return a.y; }                                          \
  EMULATOR_INLINE T2 __low2##name##2(T2 a) { return {a.x, a.x}; }                                \
  EMULATOR_INLINE T2 __high2##name##2(T2 a) { return {a.y, a.y}; }                               \
  EMULATOR_INLINE T2 __lowhigh2highlow(T2 a) { return {a.y, a.x}; }                              \
  EMULATOR_INLINE float2 __##name##22float2(T2 a) { return {a.x, a.y}; }                         \
  EMULATOR_INLINE T2 __float2##name##2_rn(float f) { return {f, f}; }                            \
  EMULATOR_INLINE T2 __float22##name##2_rn(float2 f) { return {f.x, f.y}; }                      \
  EMULATOR_INLINE T2 __floats2##name##2_rn(float low, float high) { return {low, high}; }

EMULATOR_FLOAT16(__half, __half2, half)
EMULATOR_FLOAT16(__nv_bfloat16, __nv_bfloat162, bfloat16)
#undef EMULATOR_FLOAT16
