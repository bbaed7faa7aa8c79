// A language model that draws one token after the other: embedding, LSTM layers, linear map, softmax, a draw.
//
// Included once for each instruction set (set.h). Weights are packed once; from then on a step is a
// matrix times a vector for each layer, its rows split among the threads.

template <typename T>
struct Generate {
  int64 vocabulary, embedding_size, hidden, layers;
  const T* embedding;      // (V, E)
  const T *const *weight_ih, *const *weight_hh, *const *bias;  // (4H, E or H), (4H, H), (4H,) for each layer
  const T *head, *head_bias;  // (V, H), (V,)
  T* panels;               // packed weights, size() elements
  T* state;                // h, c, h of the step before: (3, layers, H)
  T* scores;               // (V,)
  const int64* given;       // tokens to read first
  int64 given_count, count;  // how many to read, how many to draw
  double temperature;      // 0: always the likeliest
  const double* uniforms;  // (count,) in [0, 1)
  const unsigned char* never;  // (V,): tokens that are not drawn
  int64* drawn;             // (count,)

  static constexpr int64 kPanel = Simd<T>::panel;

  int64 blocks() const { return divide_up(hidden, kPanel); }
  int64 head_blocks() const { return divide_up(vocabulary, kPanel); }
  int64 input(int64 layer) const { return layer ? hidden : embedding_size; }
  int64 layer_size(int64 layer) const { return blocks() * 4 * (input(layer) + hidden) * kPanel; }
  int64 size() const {
    int64 total = head_blocks() * hidden * kPanel;
    for (int64 layer = 0; layer < layers; ++layer) total += layer_size(layer);
    return total;
  }

  void pack() const {
    T* to = panels;
    for (int64 layer = 0; layer < layers; ++layer)
      for (int64 block = 0; block < blocks(); ++block) {
        const int64 first = block * kPanel, count = least(hidden - first, kPanel);
        pack_gates(weight_ih[layer], hidden, input(layer), first, count, to);
        to += 4 * input(layer) * kPanel;
        pack_gates(weight_hh[layer], hidden, hidden, first, count, to);
        to += 4 * hidden * kPanel;
      }
    for (int64 first = 0; first < vocabulary; first += kPanel, to += hidden * kPanel)
      pack_panel(head + first * hidden, 1, hidden, hidden, least(vocabulary - first, kPanel), to);
  }

  T* part(int64 which, int64 layer) const { return state + (which * layers + layer) * hidden; }

  void step_layer(int64 layer, const T* x, const T* packed, Range units) const {
    const int64 in = input(layer);
    T sums[4 * kPanel];
    for (int64 block = units.begin; block < units.end; ++block) {
      const int64 first = block * kPanel, count = least(hidden - first, kPanel);
      const T* panel = packed + 4 * block * (in + hidden) * kPanel;
      through_gates(1, x, in, in, panel, count, sums);
      through_gates(1, part(2, layer), hidden, hidden, panel + 4 * in * kPanel, count, sums, true);
      for (int64 j = 0; j < count; j += Simd<T>::width) {
        const int64 unit = first + j, left = hidden - unit;
        auto gates = load_gates(bias[layer] + unit, hidden, left) + load_gates(sums + j, kPanel, left);
        typename Simd<T>::V c, h;
        cell_forward<T>(gates, load(part(1, layer) + unit, left), c, h);
        store(part(1, layer) + unit, c, left);
        store(part(0, layer) + unit, h, left);
      }
    }
  }

  void score(const T* packed, Range range) const {
    T sums[kPanel];
    for (int64 block = range.begin; block < range.end; ++block) {
      const int64 first = block * kPanel, count = least(vocabulary - first, kPanel);
      through_panel(1, part(0, layers - 1), hidden, hidden, packed + block * hidden * kPanel, count, sums);
      for (int64 j = 0; j < count; ++j) scores[first + j] = sums[j] + head_bias[first + j];
    }
  }

  bool bars_all() const {
    for (int64 k = 0; k < vocabulary; ++k)
      if (!never[k]) return false;
    return true;
  }

  int64 draw(double uniform) const {
    int64 best = -1;
    for (int64 k = 0; k < vocabulary; ++k)
      if (!never[k] && (best < 0 || scores[k] > scores[best])) best = k;
    if (temperature == 0) return best;
    const double top = scores[best];
    double total = 0;
    for (int64 k = 0; k < vocabulary; ++k)
      if (!never[k]) total += std::exp((scores[k] - top) / temperature);
    double below = 0;
    const double target = uniform * total;
    for (int64 k = 0; k < vocabulary; ++k)
      if (!never[k] && (below += std::exp((scores[k] - top) / temperature)) > target) return k;
    return best;
  }

  void run(int member, int members, Barrier& barrier) const {
    const Range units = share(blocks(), member, members), mine = share(head_blocks(), member, members);
    for (int64 n = 0; n < given_count + count - 1 || n < given_count; ++n) {
      const int64 token = n < given_count ? given[n] : drawn[n - given_count];
      const T *x = embedding + token * embedding_size, *packed = panels;
      for (int64 layer = 0; layer < layers; ++layer) {
        // The other half of h is what this step reads: each member moves over its own units.
        step_layer(layer, x, packed, units);
        packed += layer_size(layer);
        x = part(0, layer);
        barrier.wait();
        for (int64 k = units.begin * kPanel; k < units.end * kPanel && k < hidden; ++k)
          part(2, layer)[k] = part(0, layer)[k];
      }
      const int64 next = n + 1 - given_count;
      if (next >= 0 && next < count) {
        score(packed, mine);
        barrier.wait();
        if (member == 0) drawn[next] = draw(uniforms[next]);
      }
      barrier.wait();
    }
  }
};
