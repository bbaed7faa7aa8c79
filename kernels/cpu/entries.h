// The entries of one instruction set for T: gpu_lstm_<entry>_<suffix>_<set>.
//
// gpu_lstm/native/entries.py has a row for each, with the same arguments and the arrays' shapes: it checks what comes
// in. Lists have a number or a pointer for each of `count`.

#define ENTRY(name) EXPORTED int JOINED(name, SUFFIX, SET)

ENTRY(forward)(int64 steps, int64 batch, int64 hidden, int64 count, T* const* z, const T* const* weight_hh,
               const T* const* kept, T* const* h, T* const* c, const int64* const* lengths, const int64* reverse,
               int64 keep, int64 threads, int64 split_batch) {
  return guarded([&] {
    Forward<T> of[kMost];
    for (int64 n = 0; n < at_most(count); ++n)
      of[n] = {steps, batch, hidden, z[n], h[n], c[n], weight_hh[n], lengths[n], reverse[n] != 0, keep != 0, kept[n]};
    run<T>(of, count, steps, threads, split_batch != 0);
  });
}

ENTRY(backward)(int64 steps, int64 batch, int64 hidden, int64 count, T* const* gates, const T* const* weight_hh,
                const T* const* c, const T* const* dy, const int64* dy_row, T* const* dh, T* const* dc,
                const int64* const* lengths, const int64* reverse, int64 threads, int64 split_batch) {
  return guarded([&] {
    Backward<T> of[kMost];
    for (int64 n = 0; n < at_most(count); ++n)
      of[n] = {steps, batch, hidden, gates[n], c[n], weight_hh[n], dy[n], dy_row[n], lengths[n], reverse[n] != 0,
               dh[n], dc[n]};
    run<T>(of, count, steps, threads, split_batch != 0);
  });
}

// The family's options, as kernels/cell/options.h has them.
#define OPTIONS                                                                                                        \
  int64 options, const double* numbers, const T* peepholes, const T* gain_hh, const T* gain_c, const T* shift_c,       \
      const T* zoneout_h, const T* zoneout_c, const T* recurrent_mask, const T* live
#define FAMILY                                                                                                         \
  options != Options<T, T>::numbers ? throw Refused() : Family<T> {                                                    \
    options_of<T, T>(numbers, peepholes, gain_hh, gain_c, shift_c, zoneout_h, zoneout_c, recurrent_mask, live), steps, \
        batch, hidden, size, heads, weight_hh, lengths, reverse != 0, projection                                       \
  }

ENTRY(family_forward)(int64 steps, int64 batch, int64 hidden, int64 size, int64 heads, OPTIONS, const T* weight_hh,
                      const T* projection, T* z, T* h, T* c, T* cells, T* unprojected, T* normalised, T* scales,
                      const int64* lengths, int64 reverse, int64 keep, int64 threads, int64 split_batch) {
  return guarded([&] {
    FamilyForward<T> of{FAMILY, z, h, c, cells, unprojected, normalised, scales, keep != 0};
    run<T>(&of, 1, steps, threads, split_batch != 0);
  });
}

ENTRY(family_backward)(int64 steps, int64 batch, int64 hidden, int64 size, int64 heads, OPTIONS, const T* weight_hh,
                       const T* projection, T* gates, const T* c, const T* cells, const T* dy, int64 dy_row,
                       const T* dc_each, int64 dc_row, T* dh, T* dc, T* projected, T* dpeepholes, T* normalised,
                       const T* scales, T* dnorm, const int64* lengths, int64 reverse, int64 threads,
                       int64 split_batch) {
  return guarded([&] {
    FamilyBackward<T> of{FAMILY, gates, c, cells, dy, dc_each, dy_row, dc_row, dh, dc, projected, dpeepholes,
                         normalised, scales, dnorm};
    run<T>(&of, 1, steps, threads, split_batch != 0);
  });
}

#undef FAMILY
#undef OPTIONS

ENTRY(multiply)(int64 rows, int64 columns, int64 depth, const T* a, int64 a_row, int64 a_column, const T* b,
                int64 b_row, int64 b_column, const T* kept, T* c, const T* bias, int64 threads) {
  return guarded([&] {
    multiply<T>({rows, depth, a, a_row, a_column, {{b, b_row, b_column, columns, c}, {}}, 1, bias, nullptr, kept},
                threads);
  });
}

ENTRY(weight_gradients)(int64 rows, int64 outputs, const T* dy, int64 count, const int64* columns, const T* const* x,
                        T* const* dw, T* db, int64 threads) {
  return guarded([&] {
    Product<T> p{outputs, rows, dy, 1, outputs, {}, int(count), nullptr, db};
    for (int64 n = 0; n < at_most(count); ++n) p.factors[n] = {x[n], columns[n], 1, columns[n], dw[n]};
    multiply(p, threads);
  });
}

ENTRY(cross_entropy)(int64 rows, int64 vocabulary, T* logits, const int64* targets, double scale, T* losses,
                     int64 threads) {
  return guarded([&] { run_on(threads, CrossEntropy<T>{rows, vocabulary, logits, targets, T(scale), losses}); });
}

ENTRY(scatter_add)(int64 size, int64 rows, int64 columns, T* target, const int64* index, const T* added,
                   int64 threads) {
  return guarded([&] { run_on(threads, ScatterAdd<T>{size, rows, columns, target, index, added}); });
}

ENTRY(square_sums)(int64 count, const int64* sizes, const T* const* arrays, double* sums, int64 threads) {
  return guarded([&] { run_on(threads, SquareSums<T>{{count, sizes}, arrays, sums}); });
}

ENTRY(fingerprints)(int64 count, const int64* sizes, const unsigned char* const* arrays, std::uint64_t* found,
                    int64 threads) {
  return guarded([&] { run_on(threads, Fingerprints{{count, sizes}, arrays, found}); });
}

ENTRY(update)(int64 rule, int64 count, const int64* sizes, T* const* params, const T* const* gradients,
              T* const* states, const double* numbers, double scale, int64 threads) {
  return guarded([&] {
    run_on(threads, Update<T>{{count, sizes}, Rule(rule), params, gradients, states, numbers, T(scale)});
  });
}

#include "inference.h"

#undef ENTRY
#undef SUFFIX
