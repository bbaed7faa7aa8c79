// The compiled CPU tier: the code of recurrence.h once for each instruction set, in one library that takes at run time
// what the processor has. Called through ctypes (gpu_lstm/native/compiled.py), which releases the GIL.
//
// Compiled whole, or in six parts at once (kernels/build.py): -DPART=0 to 5, an instruction set's floats or doubles.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WITH_X86 1
#include <immintrin.h>
#endif

#include "scratch.h"
#include "team.h"

#ifdef PART
#define HAS(part) (PART == (part))
#else
#define HAS(part) 1
#endif

namespace {

// What every entry returns; none throws.
enum Status { kDone, kNoMemory, kRefused };

template <typename Body>
int guarded(const Body& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (...) {
    return kRefused;
  }
}

}  // namespace

#define IN(set, ...)             \
  return guarded([&]() -> int {  \
    using namespace set;         \
    __VA_ARGS__                  \
    return kDone;                \
  });

// The family's options, as kernels/cell/options.h has them, and what else all its entries take.
#define OPTIONS(T)                                                                                                     \
  long options, const double* numbers, const T* peepholes, const T* gain_hh, const T* gain_c, const T* shift_c,        \
      const T* zoneout_h, const T* zoneout_c, const T* recurrent_mask, const T* live

#define FAMILY(T)                                                                                                      \
  Family<T> {                                                                                                          \
    options_from<T>(numbers, peepholes, gain_hh, gain_c, shift_c, zoneout_h, zoneout_c, recurrent_mask, live), steps,  \
        batch, hidden, size, heads, weight_hh, lengths, reverse != 0, projection                                       \
  }

// The entries. gpu_lstm/native/compiled.py has a row for each, with the same arguments and the arrays' shapes: it
// checks what comes in.
#define ENTRIES(set, T, suffix)                                                                                        \
  extern "C" int gpu_lstm_forward_##suffix##_##set(long steps, long batch, long hidden, T* z, const T* weight_hh,      \
                                           T* h, T* c, const long* lengths, long reverse, long keep, long threads,     \
                                           long split_batch) {                                                         \
    IN(set, run_one<T>(Forward<T>{steps, batch, hidden, z, h, c, weight_hh, lengths, reverse != 0, keep != 0},         \
                               steps, threads, split_batch != 0);)                                                     \
  }                                                                                                                    \
  extern "C" int gpu_lstm_backward_##suffix##_##set(long steps, long batch, long hidden, T* gates,                     \
                                            const T* weight_hh, const T* h, const T* c, const T* dy, long dy_row,      \
                                            T* dh, T* dc, const long* lengths, long reverse, long threads,             \
                                            long split_batch) {                                                        \
    IN(set, run_one<T>(Backward<T>{steps, batch, hidden, gates, h, c, weight_hh, dy, dy_row, lengths,                  \
                                           reverse != 0, dh, dc},                                                      \
                               steps, threads, split_batch != 0);)                                                     \
  }                                                                                                                    \
  extern "C" int gpu_lstm_forward_both_##suffix##_##set(long steps, long batch, long hidden, T* const* z,              \
                                                const T* const* weight_hh, T* const* h, T* const* c,                   \
                                                const long* const* lengths, const long* reverse, long keep,            \
                                                long threads, long split_batch) {                                      \
    IN(set, run_both<T, Forward<T>>({{steps, batch, hidden, z[0], h[0], c[0], weight_hh[0], lengths[0],                \
                                              reverse[0] != 0, keep != 0},                                             \
                                             {steps, batch, hidden, z[1], h[1], c[1], weight_hh[1], lengths[1],        \
                                              reverse[1] != 0, keep != 0}},                                            \
                                            steps, threads, split_batch != 0);)                                        \
  }                                                                                                                    \
  extern "C" int gpu_lstm_backward_both_##suffix##_##set(long steps, long batch, long hidden, T* const* gates,         \
                                                 const T* const* weight_hh, const T* const* h, const T* const* c,      \
                                                 const T* const* dy, const long* dy_row, T* const* dh, T* const* dc,   \
                                                 const long* const* lengths, const long* reverse, long threads,        \
                                                 long split_batch) {                                                   \
    IN(set, run_both<T, Backward<T>>({{steps, batch, hidden, gates[0], h[0], c[0], weight_hh[0], dy[0],                \
                                               dy_row[0], lengths[0], reverse[0] != 0, dh[0], dc[0]},                  \
                                              {steps, batch, hidden, gates[1], h[1], c[1], weight_hh[1], dy[1],        \
                                               dy_row[1], lengths[1], reverse[1] != 0, dh[1], dc[1]}},                 \
                                             steps, threads, split_batch != 0);)                                       \
  }                                                                                                                    \
  extern "C" int gpu_lstm_multiply_##suffix##_##set(long rows, long columns, long depth, const T* a, long a_row,       \
                                            long a_column, const T* b, long b_row, long b_column, T* c, const T* bias, \
                                            long threads) {                                                            \
    IN(set, multiply<T>({rows, depth, a, a_row, a_column, {{b, b_row, b_column, columns, c}, {}}, 1, bias},            \
                                threads);)                                                                             \
  }                                                                                                                    \
  extern "C" int gpu_lstm_weight_gradients_##suffix##_##set(long rows, long outputs, const T* dy, long count,          \
                                                    const long* columns, const T* const* x, T* const* dw, T* db,       \
                                                    long threads) {                                                    \
    IN(set, multiply<T>({outputs, rows, dy, 1, outputs,                                                                \
                                 {{x[0], columns[0], 1, columns[0], dw[0]},                                            \
                                  {x[count - 1], columns[count - 1], 1, columns[count - 1], dw[count - 1]}},           \
                                 int(count), nullptr, db},                                                             \
                                threads);)                                                                             \
  }                                                                                                                    \
  extern "C" int gpu_lstm_family_forward_##suffix##_##set(                                                             \
      long steps, long batch, long hidden, long size, long heads, OPTIONS(T), const T* weight_hh,                      \
      const T* projection, T* z, T* h, T* c, T* cells, T* unprojected, T* normalised, T* scales,                       \
      const long* lengths, long reverse, long keep, long threads, long split_batch) {                                  \
    IN(set, if (options != Options<T, T>::numbers) return kRefused;                                                    \
               run_one<T>(FamilyForward<T>{FAMILY(T), z, h, c, cells, unprojected, normalised, scales, keep != 0},     \
                          steps, threads, split_batch != 0);)                                                          \
  }                                                                                                                    \
  extern "C" int gpu_lstm_family_backward_##suffix##_##set(                                                            \
      long steps, long batch, long hidden, long size, long heads, OPTIONS(T), const T* weight_hh,                      \
      const T* projection, T* gates, const T* c, const T* cells, const T* dy, long dy_row, const T* dc_each,           \
      long dc_row, T* dh, T* dc, T* projected, T* dpeepholes, T* normalised, const T* scales, T* dnorm,                \
      const long* lengths, long reverse, long threads, long split_batch) {                                             \
    IN(set, if (options != Options<T, T>::numbers) return kRefused;                                                    \
               run_one<T>(FamilyBackward<T>{FAMILY(T), gates, c, cells, dy, dc_each, dy_row, dc_row, dh, dc, projected,\
                                            dpeepholes, normalised, scales, dnorm},                                    \
                          steps, threads, split_batch != 0);)                                                          \
  }                                                                                                                    \
  extern "C" int gpu_lstm_generate_##suffix##_##set(                                                                   \
      long vocabulary, long embedding_size, long hidden, long layers, const T* embedding,                              \
      const T* const* weight_ih, const T* const* weight_hh, const T* const* bias, const T* head, const T* head_bias,   \
      long room, T* panels, T* state, T* scores, long given_count, const long* given, long count, double temperature,  \
      const double* uniforms, const unsigned char* never, long* drawn, long* size, long threads) {                     \
    IN(set, const Generate<T> p{vocabulary, embedding_size, hidden, layers, embedding, weight_ih, weight_hh,           \
                                        bias, head, head_bias, panels, state, scores, given, given_count, count,       \
                                        temperature, uniforms, never, drawn};                                          \
               if (size) return *size = p.size(), kDone;                                                               \
               if (room < p.size() || p.bars_all()) return kRefused;                                                   \
               if (count == 0 && given_count == 0) p.pack();                                                           \
               else run_on(threads, p);)                                                                               \
  }                                                                                                                    \
  extern "C" int gpu_lstm_cross_entropy_##suffix##_##set(long rows, long vocabulary, T* logits, const long* targets,   \
                                                 double scale, T* losses, long threads) {                              \
    IN(set, run_on(threads, CrossEntropy<T>{rows, vocabulary, logits, targets, T(scale), losses});)                    \
  }                                                                                                                    \
  extern "C" int gpu_lstm_scatter_add_##suffix##_##set(long size, long rows, long columns, T* target,                  \
                                               const long* index, const T* added, long threads) {                      \
    IN(set, run_on(threads, ScatterAdd<T>{size, rows, columns, target, index, added});)                                \
  }                                                                                                                    \
  extern "C" int gpu_lstm_square_sums_##suffix##_##set(long count, const long* sizes, const T* const* arrays,          \
                                               double* sums, long threads) {                                           \
    IN(set, run_on(threads, SquareSums<T>{{count, sizes}, arrays, sums});)                                             \
  }                                                                                                                    \
  extern "C" int gpu_lstm_fingerprints_##suffix##_##set(long count, const long* sizes,                                 \
                                                const unsigned char* const* arrays, std::uint64_t* found,              \
                                                long threads) {                                                        \
    IN(set, run_on(threads, Fingerprints{count, sizes, arrays, found});)                                               \
  }                                                                                                                    \
  extern "C" int gpu_lstm_update_##suffix##_##set(long rule, long count, const long* sizes, T* const* params,          \
                                          const T* const* gradients, T* const* states, const double* numbers,          \
                                          double scale, long threads) {                                                \
    IN(set, run_on(threads, Update<T>{{count, sizes}, Rule(rule), params, gradients, states, numbers,                  \
                                              T(scale)});)                                                             \
  }                                                                                                                    \
  extern "C" int gpu_lstm_activate_##suffix##_##set(long tanh_instead, long count, const T* x, T* y) {                 \
    IN(set, activate<T>(tanh_instead != 0, count, x, y);)                                                              \
  }

#if defined(WITH_X86) && (HAS(2) || HAS(3))
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define VECTOR_BYTES 32
#define TILE_ROWS 3
#include "recurrence.h"
#include "family.h"
#include "generate.h"
#include "training.h"
#undef CELL
#undef VECTOR_BYTES
#undef TILE_ROWS
}  // namespace avx2
#pragma GCC pop_options
#if HAS(2)
ENTRIES(avx2, float, f32)
#endif
#if HAS(3)
ENTRIES(avx2, double, f64)
#endif
#endif

#if defined(WITH_X86) && (HAS(4) || HAS(5))
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
namespace avx512 {
#define VECTOR_BYTES 64
#define TILE_ROWS 6
#include "recurrence.h"
#include "family.h"
#include "generate.h"
#include "training.h"
#undef CELL
#undef VECTOR_BYTES
#undef TILE_ROWS
}  // namespace avx512
#pragma GCC pop_options
#if HAS(4)
ENTRIES(avx512, float, f32)
#endif
#if HAS(5)
ENTRIES(avx512, double, f64)
#endif
#endif

#if HAS(0) || HAS(1)
namespace baseline {
#define VECTOR_BYTES 16
#define TILE_ROWS 3
#include "recurrence.h"
#include "family.h"
#include "generate.h"
#include "training.h"
#undef CELL
}  // namespace baseline
#if HAS(0)
ENTRIES(baseline, float, f32)
#endif
#if HAS(1)
ENTRIES(baseline, double, f64)
#endif
#endif

#if HAS(0)
// The best instruction set of this processor: 0 baseline, 1 AVX2 with FMA, 2 AVX-512.
extern "C" int gpu_lstm_best_set() {
#ifdef WITH_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}
#endif
