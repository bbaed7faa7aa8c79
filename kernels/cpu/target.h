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
