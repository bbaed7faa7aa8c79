// The entries of one instruction set for T that no training step calls, as those of entries.h.

// What `kept` of forward takes, made of weight_hh; or, without gates, what that of multiply takes, made of the matrix by
// whose transpose it multiplies.
ENTRY(pack)(int64 gates, int64 rows, int64 depth, const T* weight, T* panels) {
  static_assert(64 % Simd<T>::panel == 0, "gpu_lstm/native/arguments.py has rows rounded up to 64");
  return guarded([&] {
    if (!gates) {
      const Product<T> of{1, depth, nullptr, 0, 1, {{weight, 1, depth, rows, nullptr}, {}}, 1};
      for (int64 k = 0; k < depth; k += of.kSlab)
        for (int64 n = 0; n < of.blocks(); ++n)
          of.pack(panels + (k * of.blocks() + n * least(depth - k, of.kSlab)) * Simd<T>::panel, n, k,
                  least(depth - k, of.kSlab));
      return;
    }
    if (rows != 4 * depth) throw Refused();
    const Forward<T> of{1, 1, depth, nullptr, nullptr, nullptr, weight, nullptr, false, false, nullptr, panels};
    for (int64 block = 0; block < of.blocks(); ++block) of.pack(block);
  });
}

// A layer in one direction: z = x W_ih^T + b, then the recurrence, so many steps at a time that z stays in cache; the bits
// of multiply and forward. After every `every` steps, h and c are rounded to so many places, where these are not 0.
ENTRY(infer)(int64 steps, int64 batch, int64 inputs, int64 hidden, const T* x, const T* kept_ih, const T* bias,
             const T* kept_hh, int64 some, T* h, T* c, int64 around, int64 threads, int64 split_batch, int64 every,
             int64 places) {
  return guarded([&] {
    if (some < 1 || every < 1) throw Refused();
    T* z = scratch<T, 1>(least(some, steps) * batch * 4 * hidden);
    for (int64 t = 0; t < steps; t += some) {
      const int64 n = least(some, steps - t);
      multiply<T>({n * batch, inputs, x + t * batch * inputs, inputs, 1, {{nullptr, 1, inputs, 4 * hidden, z}, {}}, 1,
                   bias, nullptr, kept_ih}, around);
      for_stretches(t, n, every, [&](int64 from, int64 count) {
        Forward<T> of{count, batch, hidden, z + (from - t) * batch * 4 * hidden, h + from * batch * hidden, c, nullptr,
                      nullptr, false, false, kept_hh};
        run<T>(&of, 1, count, threads, split_batch != 0);
        round_state(from + count, every, places, batch * hidden, h, c);
      });
    }
  });
}

ENTRY(generate)(int64 vocabulary, int64 embedding_size, int64 hidden, int64 layers, const T* embedding,
                const T* const* weight_ih, const T* const* weight_hh, const T* const* bias, const T* head,
                const T* head_bias, int64 room, T* panels, T* state, T* scores, int64 given_count, const int64* given,
                int64 count, double temperature, const double* uniforms, const unsigned char* never, int64* drawn,
                int64* size, int64 threads) {
  return guarded([&] {
    const Generate<T> p{vocabulary, embedding_size, hidden, layers, embedding, weight_ih, weight_hh, bias, head,
                        head_bias, panels, state, scores, given, given_count, count, temperature, uniforms, never,
                        drawn};
    if (size) *size = p.size();
    else if (room < p.size() || p.bars_all()) throw Refused();
    else if (count == 0 && given_count == 0) p.pack();
    else run_on(threads, p);
  });
}

// Element-wise activations, for tests of their error.
ENTRY(activate)(int64 tanh_instead, int64 count, const T* x, T* y) {
  return guarded([&] {
    for (int64 k = 0; k < count; k += Simd<T>::width) {
      const auto v = load(x + k, count - k);
      store(y + k, tanh_instead ? tanh_of<T>(v) : sigmoid<T>(v), count - k);
    }
  });
}
