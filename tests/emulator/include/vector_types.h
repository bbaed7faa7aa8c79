// float2, int4 and so on, with CUDA's alignments.
#pragma once

#define EMULATOR_VECTORS(T, name, alignment2, alignment4)                     \
  struct name##1 { T x; };                                                    \
  struct __align__(alignment2) name##2 { T x, y; };                           \
  struct name##3 { T x, y, z; };                                              \
  struct __align__(alignment4) name##4 { T x, y, z, w; };                     \
  EMULATOR_INLINE name##1 make_##name##1(T x) { return {x}; }                 \
  EMULATOR_INLINE name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  EMULATOR_INLINE name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  EMULATOR_INLINE name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATOR_VECTORS(signed char, char, 2, 4)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(long long, longlong, 16, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
#undef EMULATOR_VECTORS

// unsigned: uint3 is in language.h already
struct uint1 {
  unsigned x;
};
struct __align__(8) uint2 {
  unsigned x, y;
};
struct __align__(16) uint4 {
  unsigned x, y, z, w;
};
EMULATOR_INLINE uint1 make_uint1(unsigned x) { return {x}; }
EMULATOR_INLINE uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
EMULATOR_INLINE uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
EMULATOR_INLINE uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
