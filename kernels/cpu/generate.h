// A language model that draws one token after the other: embedding, LSTM layers, linear map, softmax, a draw.
//
// Included once for each instruction set (set.h). Weights are packed once; from then on a step is a
// matrix times a vector for each layer, its rows split among the threads.

template <typename T>
struct Generate {
  long vocabulary, embedding_size, hidden, layers;
  const T* embedding;      // (V, E)
  const T *const *weight_ih, *const *weight_hh, *const *bias;  // (4H, E or H), (4H, H), (4H,) for each layer
  const T *head, *head_bias;  // (V, H), (V,)
  T* panels;               // packed weights, size() elements
  T* state;                // h, c, h of the step before: (3, layers, H)
  T* scores;               // (V,)
  const long* given;       // tokens to read first
  long given_count, count;  // how many to read, how many to draw
  double temperature;      // 0: always the likeliest
  const double* uniforms;  // (count,) in [0, 1)
  const unsigned char* never;  // (V,): tokens that are not drawn
  long* drawn;             // (count,)

  long blocks() const { return divide_up(hidden, Simd<T>::width); }
  long head_blocks() const { return divide_up(vocabulary, Simd<T>::panel); }
  long input(long layer) const { return layer ? hidden : embedding_size; }
  long layer_size(long layer) const { return blocks() * (input(layer) + hidden) * Simd<T>::panel; }
  long size() const {
    long total = head_blocks() * hidden * Simd<T>::panel;
    for (long layer = 0; layer < layers; ++layer) total += layer_size(layer);
    return total;
  }

  void pack() const {
    T* to = panels;
    for (long layer = 0; layer < layers; ++layer)
      for (long block = 0; block < blocks(); ++block) {
        const long first = block * Simd<T>::width;
        pack_gates(weight_ih[layer], hidden, input(layer), first, hidden - first, to);
        to += input(layer) * Simd<T>::panel;
        pack_gates(weight_hh[layer], hidden, hidden, first, hidden - first, to);
        to += hidden * Simd<T>::panel;
      }
    for (long block = 0; block < head_blocks(); ++block, to += hidden * Simd<T>::panel)
      for (long j = 0; j < Simd<T>::panel; ++j) {
        const long token = block * Simd<T>::panel + j;
        for (long k = 0; k < hidden; ++k)
          to[k * Simd<T>::panel + j] = token < vocabulary ? head[token * hidden + k] : T(0);
      }
  }

  T* part(long which, long layer) const { return state + (which * layers + layer) * hidden; }

  void step_layer(long layer, const T* x, const T* packed, Range units) const {
    using V = typename Simd<T>::V;
    const long in = input(layer);
    for (long block = units.begin; block < units.end; ++block) {
      const long unit = block * Simd<T>::width, left = hidden - unit;
      const T* panel = packed + block * (in + hidden) * Simd<T>::panel;
      V sums[1][4] = {};
      product<T, 1, 4>(in, x, 0, 1, panel, sums);
      product<T, 1, 4>(hidden, part(2, layer), 0, 1, panel + in * Simd<T>::panel, sums);
      auto gates = load_gates(bias[layer] + unit, hidden, left);
      gates = {gates.i + sums[0][0], gates.f + sums[0][1], gates.g + sums[0][2], gates.o + sums[0][3]};
      V c, h;
      cell_forward<T>(gates, load(part(1, layer) + unit, left), c, h);
      store(part(1, layer) + unit, c, left);
      store(part(0, layer) + unit, h, left);
    }
  }

  void score(const T* packed, Range range) const {
    using V = typename Simd<T>::V;
    for (long block = range.begin; block < range.end; ++block) {
      V sums[1][4] = {};
      product<T, 1, 4>(hidden, part(0, layers - 1), 0, 1, packed + block * hidden * Simd<T>::panel, sums);
      for (long v = 0; v < 4; ++v) {
        const long first = block * Simd<T>::panel + v * Simd<T>::width, left = vocabulary - first;
        if (left > 0) store(scores + first, sums[0][v] + load(head_bias + first, left), left);
      }
    }
  }

  bool bars_all() const {
    for (long k = 0; k < vocabulary; ++k)
      if (!never[k]) return false;
    return true;
  }

  long draw(double uniform) const {
    long best = -1;
    for (long k = 0; k < vocabulary; ++k)
      if (!never[k] && (best < 0 || scores[k] > scores[best])) best = k;
    if (temperature == 0) return best;
    const double top = scores[best];
    double total = 0;
    for (long k = 0; k < vocabulary; ++k)
      if (!never[k]) total += std::exp((scores[k] - top) / temperature);
    double below = 0;
    const double target = uniform * total;
    for (long k = 0; k < vocabulary; ++k)
      if (!never[k] && (below += std::exp((scores[k] - top) / temperature)) > target) return k;
    return best;
  }

  void run(int member, int members, Barrier& barrier) const {
    const Range units = share(blocks(), member, members), mine = share(head_blocks(), member, members);
    for (long n = 0; n < given_count + count - 1 || n < given_count; ++n) {
      const long token = n < given_count ? given[n] : drawn[n - given_count];
      const T *x = embedding + token * embedding_size, *packed = panels;
      for (long layer = 0; layer < layers; ++layer) {
        // The other half of h is what this step reads: each member moves over its own units.
        step_layer(layer, x, packed, units);
        packed += layer_size(layer);
        x = part(0, layer);
        barrier.wait();
        for (long k = units.begin * Simd<T>::width; k < units.end * Simd<T>::width && k < hidden; ++k)
          part(2, layer)[k] = part(0, layer)[k];
      }
      const long next = n + 1 - given_count;
      if (next >= 0 && next < count) {
        score(packed, mine);
        barrier.wait();
        if (member == 0) drawn[next] = draw(uniforms[next]);
      }
      barrier.wait();
    }
  }
};
