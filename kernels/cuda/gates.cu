// The LSTM cell over a whole batch, one time step a launch. The recurrent product is cuBLAS's, before and after.
//
// Each thread takes N neighbouring hidden units of one sequence: N elements fill 16 bytes where hidden is a multiple
// of N and all arrays are aligned, else N is 1. Arrays of all T steps come in whole, and t, a slot of h and a slot of c
// pick the step, so that the loop on the host makes no views.

#include "common.cuh"
#include "cell.cuh"
#include "gates.cuh"

// z becomes the activated gates where Keep (training), c and h of the next slot are written. Masked: a sequence
// without a step t keeps its state, and its z stays.
template <typename S, int N, bool Keep, bool Masked>
__global__ void gates_forward(S* z,                   // (T, B, 4H) pre-activations
                              S* h,                   // (T + 1, B, H)
                              Arithmetic<S>* c,       // (T + 1, B, H), or (1, B, H) where not Keep
                              const int64* lengths,   // (B,) if Masked
                              int64 t, int64 h_before, int64 h_after, int64 c_before, int64 c_after,
                              unsigned batch, unsigned hidden) {
  using T = Arithmetic<S>;
  const Place<N> place(batch, hidden);
  if (!place.inside) return;
  const int64 cells = int64(batch) * hidden, here = int64(place.b) * hidden + place.u;
  Pack<T, N> state = load<N>(c + c_before * cells + here);
  Pack<S, N> output;
  if (Masked && t >= lengths[place.b]) {
    output = load<N>(h + h_before * cells + here);
  } else {
    S* const at = z + (t * batch + place.b) * 4 * hidden + place.u;
    Gates<Pack<S, N>> gates = load_gates<N>(at, hidden);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      Gates<T> one = unit<T, N>(gates, k);
      T next, out;
      cell_forward<InCell<S>>(one, state.at[k], next, out);
      state.at[k] = next;
      output.at[k] = S(out);
      if (Keep) set_unit<T, N>(gates, k, one);
    }
    if (Keep) store_gates<N>(at, hidden, gates);
  }
  store<N>(c + c_after * cells + here, state);
  store<N>(h + h_after * cells + here, output);
}

// The gates become dz; dc moves to the step before. dh holds what arrives from the step after. Masked: a sequence
// without a step t gets dz = 0 and keeps dh and dc; the others' dh is cleared, because dz W_hh is then added to it.
template <typename S, int N, bool Masked>
__global__ void gates_backward(S* gates,                // (T, B, 4H)
                               const Arithmetic<S>* c,  // (T + 1, B, H)
                               const S* dy,             // (T, B, H); null: zeros
                               Arithmetic<S>* dh,       // (B, H)
                               Arithmetic<S>* dc,       // (B, H)
                               const int64* lengths,    // (B,) if Masked
                               int64 t, int64 c_before, int64 c_after, unsigned batch, unsigned hidden) {
  using T = Arithmetic<S>;
  const Place<N> place(batch, hidden);
  if (!place.inside) return;
  const int64 cells = int64(batch) * hidden, here = int64(place.b) * hidden + place.u, row = t * batch + place.b;
  S* const at = gates + row * 4 * hidden + place.u;
  if (Masked && t >= lengths[place.b]) {
    Pack<S, N> zeros;
#pragma unroll
    for (int k = 0; k < N; ++k) zeros.at[k] = S(0.0f);
    store_gates<N>(at, hidden, {zeros, zeros, zeros, zeros});
    return;
  }
  Gates<Pack<S, N>> saved = load_gates<N>(at, hidden);
  const Pack<T, N> before = load<N>(c + c_before * cells + here), after = load<N>(c + c_after * cells + here);
  Pack<T, N> from_h = load<N>(dh + here), from_c = load<N>(dc + here);
  if (dy) {
    const Pack<S, N> outside = load<N>(dy + row * hidden + place.u);
#pragma unroll
    for (int k = 0; k < N; ++k) from_h.at[k] += T(outside.at[k]);
  }
#pragma unroll
  for (int k = 0; k < N; ++k) {
    Gates<T> one = unit<T, N>(saved, k);
    cell_backward<InCell<S>>(one, before.at[k], after.at[k], from_h.at[k], from_c.at[k]);
    set_unit<T, N>(saved, k, one);
    from_h.at[k] = T(0);
  }
  store_gates<N>(at, hidden, saved);
  store<N>(dc + here, from_c);
  if (Masked) store<N>(dh + here, from_h);
}
