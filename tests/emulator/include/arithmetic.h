// Arithmetic that CUDA has and the C library has not. Of the fast functions, __expf and __fdividef are off by as much as
// CUDA's manual allows, up or down as the argument's bits say; the others are the accurate ones.
#pragma once

namespace emulator {
template <typename To, typename From>
EMULATOR_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "as many bits");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// The value, off by some of so many units in the last place.
EMULATOR_INLINE float approximately(double exact, double ulps, float argument) {
  const float rounded = (float)exact;
  if (!(fabsf(rounded) > 0.0f) || rounded - rounded != 0.0f) return rounded;
  const unsigned hash = (bits_as<unsigned>(argument) * 2654435761u) >> 16;
  const double share = hash / 32767.5 - 1.0;  // -1 to 1
  const float ulp = ldexpf(1.0f, ilogbf(rounded) - 23);
  return (float)(exact + share * ulps * ulp);
}
}  // namespace emulator

EMULATOR_INLINE float __int_as_float(int i) { return emulator::bits_as<float>(i); }
EMULATOR_INLINE int __float_as_int(float f) { return emulator::bits_as<int>(f); }
EMULATOR_INLINE float __uint_as_float(unsigned i) { return emulator::bits_as<float>(i); }
EMULATOR_INLINE unsigned __float_as_uint(float f) { return emulator::bits_as<unsigned>(f); }
EMULATOR_INLINE double __longlong_as_double(long long i) { return emulator::bits_as<double>(i); }
EMULATOR_INLINE long long __double_as_longlong(double d) { return emulator::bits_as<long long>(d); }
EMULATOR_INLINE double __hiloint2double(int high, int low) {
  return emulator::bits_as<double>((unsigned long long)(unsigned)high << 32 | (unsigned)low);
}

// ---- float and double

// Macros, because the C library has functions of these names for itself.
#define __expf(x) emulator::approximately(exp((double)(x)), 2.0 + floor(fabs(1.173 * (x))), x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __powf(x, y) powf(x, y)

EMULATOR_INLINE float __fdividef(float x, float y) { return emulator::approximately((double)x / y, 2.0, y); }
EMULATOR_INLINE float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
EMULATOR_INLINE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
EMULATOR_INLINE double rsqrt(double x) { return 1.0 / sqrt(x); }

EMULATOR_INLINE float __fadd_rn(float x, float y) { return x + y; }
EMULATOR_INLINE float __fsub_rn(float x, float y) { return x - y; }
EMULATOR_INLINE float __fmul_rn(float x, float y) { return x * y; }
EMULATOR_INLINE float __fdiv_rn(float x, float y) { return x / y; }
EMULATOR_INLINE float __frcp_rn(float x) { return 1.0f / x; }
EMULATOR_INLINE float __fsqrt_rn(float x) { return sqrtf(x); }
EMULATOR_INLINE float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
EMULATOR_INLINE float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
EMULATOR_INLINE double __dadd_rn(double x, double y) { return x + y; }
EMULATOR_INLINE double __dsub_rn(double x, double y) { return x - y; }
EMULATOR_INLINE double __dmul_rn(double x, double y) { return x * y; }
EMULATOR_INLINE double __ddiv_rn(double x, double y) { return x / y; }
EMULATOR_INLINE double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

EMULATOR_INLINE int __float2int_rn(float x) { return (int)nearbyintf(x); }
EMULATOR_INLINE int __float2int_rz(float x) { return (int)x; }
EMULATOR_INLINE int __float2int_rd(float x) { return (int)floorf(x); }
EMULATOR_INLINE int __float2int_ru(float x) { return (int)ceilf(x); }
EMULATOR_INLINE unsigned __float2uint_rn(float x) { return (unsigned)nearbyintf(x); }
EMULATOR_INLINE unsigned __float2uint_rz(float x) { return (unsigned)x; }
EMULATOR_INLINE float __int2float_rn(int x) { return (float)x; }
EMULATOR_INLINE float __uint2float_rn(unsigned x) { return (float)x; }
EMULATOR_INLINE float __ull2float_rn(unsigned long long x) { return (float)x; }
EMULATOR_INLINE float __double2float_rn(double x) { return (float)x; }

// ---- integers

EMULATOR_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
EMULATOR_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
EMULATOR_INLINE int __ffs(int x) { return __builtin_ffs(x); }
EMULATOR_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
EMULATOR_INLINE int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
EMULATOR_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
EMULATOR_INLINE unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((unsigned long long)x * y >> 32); }
EMULATOR_INLINE int __mulhi(int x, int y) { return (int)((long long)x * y >> 32); }
EMULATOR_INLINE unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return (unsigned long long)((unsigned __int128)x * y >> 64);
}
EMULATOR_INLINE unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
EMULATOR_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((unsigned long long)high << 32 | low) << (shift & 31) >> 32);
}
EMULATOR_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
EMULATOR_INLINE unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long bytes = (unsigned long long)y << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 15;
    unsigned byte = (unsigned)(bytes >> (8 * (nibble & 7))) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;  // the sign, replicated
    result |= byte << (8 * i);
  }
  return result;
}

namespace emulator {
template <typename A, typename B>
using Common = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, std::common_type_t<A, B>>;
}  // namespace emulator

// Numbers of mixed widths and signs as in C; a NaN loses against a number.
template <typename A, typename B>
EMULATOR_INLINE emulator::Common<A, B> min(A a, B b) {
  using T = emulator::Common<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin((T)a, (T)b);
  return (T)b < (T)a ? (T)b : (T)a;
}
template <typename A, typename B>
EMULATOR_INLINE emulator::Common<A, B> max(A a, B b) {
  using T = emulator::Common<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax((T)a, (T)b);
  return (T)a < (T)b ? (T)b : (T)a;
}
