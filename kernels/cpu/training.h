// What a training step does around the recurrence and the products: cross-entropy, embedding gradient, optimizers.
//
// Included once for each instruction set (set.h). Sums are made in an order that does not depend on the
// number of threads. The loops over plain arrays are left to the compiler to vectorise.

// Rows of logits (N, V) become the gradient of scale * sum of losses; losses (N,) get -log softmax at the target.
// Rows whose target is negative get zeros: they are ignored.
template <typename T>
struct CrossEntropy {
  int64 rows, vocabulary;
  T* logits;
  const int64* targets;
  T scale;
  T* losses;

  void one(int64 n) const {
    using V = typename Simd<T>::V;
    constexpr int64 width = Simd<T>::width;
    T* row = logits + n * vocabulary;
    if (targets[n] < 0) {
      for (int64 j = 0; j < vocabulary; ++j) row[j] = 0;
      losses[n] = 0;
      return;
    }
    T top = row[0];
    for (int64 j = 1; j < vocabulary; ++j) top = row[j] > top ? row[j] : top;
    const T at_target = row[targets[n]] - top;
    V sums{};
    for (int64 j = 0; j < vocabulary; j += width) {
      const int64 left = vocabulary - j;
      V e = exp_minus_1<T>(clamp<T>(load(row + j, left) - top, Constants<T>::exp_limit)) + T(1);
      for (int64 k = left; k < width; ++k) e[k] = 0;
      sums += e;
      store(row + j, e, left);
    }
    const T total = sum_of<T>(sums), factor = scale / total;
    for (int64 j = 0; j < vocabulary; ++j) row[j] *= factor;
    row[targets[n]] -= scale;
    // A NaN among the logits has reached the total; comparisons passed it over in `top`.
    losses[n] = T(std::log(total)) - at_target;
  }

  void run(int member, int members, Barrier&) const {
    const Range mine = share(rows, member, members);
    for (int64 n = mine.begin; n < mine.end; ++n) one(n);
  }
};

// target[index[n]] += from[n] for all n in turn; the threads split the columns.
template <typename T>
struct ScatterAdd {
  int64 size, rows, columns;
  T* target;          // (size, columns)
  const int64* index;  // (rows,), each below size
  const T* from;      // (rows, columns)

  void run(int member, int members, Barrier&) const {
    const Range blocks = share(divide_up(columns, Simd<T>::width), member, members);
    const int64 first = blocks.begin * Simd<T>::width, end = blocks.end * Simd<T>::width;
    const int64 last = end < columns ? end : columns;
    for (int64 n = 0; n < rows; ++n) {
      T* to = target + index[n] * columns;
      const T* row = from + n * columns;
      for (int64 j = first; j < last; ++j) to[j] += row[j];
    }
  }
};

// Several arrays, cut into blocks that the threads share.
template <int64 kSize = 4096>
struct Blocks {
  int64 count;
  const int64* sizes;

  // visit(array, first element, number of elements, number of the block) for the member's blocks.
  template <typename Visit>
  void each(int member, int members, const Visit& visit) const {
    int64 total = 0;
    for (int64 n = 0; n < count; ++n) total += divide_up(sizes[n], kSize);
    const Range mine = share(total, member, members);
    int64 block = 0;
    for (int64 n = 0; n < count; ++n)
      for (int64 first = 0; first < sizes[n]; first += kSize, ++block)
        if (block >= mine.begin && block < mine.end) visit(n, first, least(sizes[n] - first, kSize), block);
  }
};

// The sum of squares of each block.
template <typename T>
struct SquareSums {
  Blocks<> blocks;
  const T* const* arrays;
  double* sums;  // (number of blocks,)

  void run(int member, int members, Barrier&) const {
    using V = typename Simd<T>::V;
    blocks.each(member, members, [&](int64 n, int64 first, int64 size, int64 block) {
      V sum{};
      for (int64 k = 0; k < size; k += Simd<T>::width) {
        const V v = load(arrays[n] + first + k, size - k);
        sum += v * v;
      }
      double total = 0;
      for (int64 k = 0; k < Simd<T>::width; ++k) total += double(sum[k]);
      sums[block] = total;
    });
  }
};

// A number for each block of several arrays' bytes: another one, all but surely, where a bit, or the order of bytes,
// is another. Words of 32 bits go down chains, as many as eight registers hold, each of whose links is one to one in the
// word and in the link before; the chains are mixed to 64 bits in their order.
struct Fingerprints {
  typedef std::uint32_t Words __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int64 kBytes = 65536, kChains = 8, kStep = kChains * VECTOR_BYTES;
  Blocks<kBytes> blocks;
  const unsigned char* const* arrays;
  std::uint64_t* found;  // one a block, those of the first array, those of the second, ...

  static std::uint64_t of(const unsigned char* bytes, int64 size) {
    Words chains[kChains] = {};
    const int64 whole = size / kStep * kStep;
    for (int64 first = 0; first < whole; first += kStep) link(chains, bytes + first);
    if (whole < size) {
      unsigned char rest[kStep] = {};
      std::memcpy(rest, bytes + whole, std::size_t(size - whole));
      link(chains, rest);
    }
    std::uint64_t mixed = std::uint64_t(size), part;
    for (int64 k = 0; k < kStep; k += int64(sizeof part)) {
      std::memcpy(&part, reinterpret_cast<const unsigned char*>(chains) + k, sizeof part);
      mixed = (mixed ^ part) * 0x9E3779B97F4A7C15u;
      mixed ^= mixed >> 32;
    }
    return mixed;
  }

  static void link(Words (&chains)[kChains], const unsigned char* bytes) {
#pragma GCC unroll 8
    for (int64 k = 0; k < kChains; ++k) {
      Words words;
      std::memcpy(&words, bytes + k * VECTOR_BYTES, VECTOR_BYTES);
      const Words next = (chains[k] ^ words) * 0x9E3779B1u;
      chains[k] = next ^ (next >> 15);
    }
  }

  void run(int member, int members, Barrier&) const {
    blocks.each(member, members, [&](int64 n, int64 first, int64 size, int64 block) {
      found[block] = of(arrays[n] + first, size);
    });
  }
};

enum Rule { kSgd, kRmsprop, kAdam };

// One step of an optimizer (gpu_lstm/optimizers: `numbers` are those of its `move`), with gradients times `scale`.
template <typename T>
struct Update {
  Blocks<> blocks;
  Rule rule;
  T* const* params;
  const T* const* gradients;
  T* const* states;  // those of the first array, those of the second, ...
  const double* numbers;
  T scale;

  void run(int member, int members, Barrier&) const {
    blocks.each(member, members, [&](int64 n, int64 first, int64 size, int64) {
      T* p = params[n] + first;
      const T* g = gradients[n] + first;
      switch (rule) {
        case kSgd: return sgd(size, p, g, states[n] + first);
        case kRmsprop: return rmsprop(size, p, g, states[n] + first);
        case kAdam: return adam(size, p, g, states[2 * n] + first, states[2 * n + 1] + first);
      }
    });
  }

  void sgd(int64 size, T* __restrict p, const T* __restrict g, T* __restrict velocity) const {
    const T rate = T(numbers[0]), momentum = T(numbers[1]);
    for (int64 k = 0; k < size; ++k) {
      velocity[k] = momentum * velocity[k] + scale * g[k];
      p[k] -= rate * velocity[k];
    }
  }

  void rmsprop(int64 size, T* __restrict p, const T* __restrict g, T* __restrict square) const {
    const T rate = T(numbers[0]), decay = T(numbers[1]), rest = T(numbers[2]), eps = T(numbers[3]);
    for (int64 k = 0; k < size; ++k) {
      const T gradient = scale * g[k];
      square[k] = decay * square[k] + rest * gradient * gradient;
      p[k] -= rate * gradient / (std::sqrt(square[k]) + eps);
    }
  }

  void adam(int64 size, T* __restrict p, const T* __restrict g, T* __restrict mean, T* __restrict square) const {
    const T step = T(numbers[0]), inverse_root = T(1 / numbers[1]), beta1 = T(numbers[2]), rest1 = T(numbers[3]);
    const T beta2 = T(numbers[4]), rest2 = T(numbers[5]), eps = T(numbers[6]), shrink = T(numbers[7]);
    for (int64 k = 0; k < size; ++k) {
      const T gradient = scale * g[k];
      mean[k] = beta1 * mean[k] + rest1 * gradient;
      square[k] = beta2 * square[k] + rest2 * gradient * gradient;
      p[k] = shrink * p[k] - step * mean[k] / (std::sqrt(square[k]) * inverse_root + eps);
    }
  }
};
