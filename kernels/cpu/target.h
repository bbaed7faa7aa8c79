// The instruction sets that a processor's kind has, and how a part of a file is compiled for one: TARGET("avx2,fma"),
// functions, TARGET_END. GCC and Clang say it in different words.
#pragma once

#include <cstdint>

// On Windows, GCC doesn't align vectors of 32 and 64 bytes on the stack: there, Clang has all sets and GCC the baseline.
#if defined(__x86_64__) && defined(__GNUC__) && (defined(__clang__) || !defined(_WIN32))
#define WITH_X86 1
#include <cpuid.h>
#include <immintrin.h>
#if (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define KNOWS_AVXVNNI 1
#endif
#elif defined(__aarch64__)
#define WITH_NEON 1
#include <arm_neon.h>
#endif

#ifdef _WIN32
#define EXPORTED extern "C" __declspec(dllexport)
#else
#define EXPORTED extern "C"
#endif

#define PRAGMA(...) _Pragma(#__VA_ARGS__)
#ifdef __clang__
#define TARGET(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END PRAGMA(clang attribute pop)
#else
#define TARGET(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define TARGET_END PRAGMA(GCC pop_options)
#endif

using int64 = std::int64_t;  // C's long has 32 bits on Windows

#ifdef WITH_X86
// What the processor has and the system keeps of its registers, from themselves: what __builtin_cpu_supports reads is
// filled in by a compiler's own library, and by some (Zig's) it isn't.
struct Processor {
  Processor() {
    unsigned a, b, c = 0, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return;
    unsigned kept, high;
    asm volatile("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));
    const bool fma = c >> 12 & 1;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    avx2 = (kept & 0x6) == 0x6 && fma && b >> 5 & 1;
    const unsigned all = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
    avx512 = avx2 && (kept & 0xe6) == 0xe6 && (b & all) == all;
    avx512_vnni = avx512 && c >> 11 & 1;
    avx_vnni = avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
  }

  bool avx2 = false, avx512 = false, avx_vnni = false, avx512_vnni = false;  // avx2 with FMA
};
#endif
