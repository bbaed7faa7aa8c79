// Weights of 8 bits, or of bfloat16, for inference: the product of some rows with them, and the recurrence.
//
// Included for each instruction set, without and with VNNI (quantized_sets.h). A packed matrix (4H, depth) has blocks of
// `width` units, as `Packed` in gpu_lstm/recurrence/quantized.py makes them: [k / group][gate][unit][k % group]; of 8
// bits, before that -128 times each row's sum and its scale, [gate][unit] each.
//
// 8 bits: a row of activations becomes q = round(127 x / max |x|), and sums of q w are whole numbers. So they are the
// same to the last bit in whatever order, on every instruction set.

using V = Simd<float>::V;
typedef int Ints __attribute__((vector_size(VECTOR_BYTES)));
constexpr int64 width = Simd<float>::width;
constexpr int kRows = VECTOR_BYTES == 64 ? 6 : 3;  // of a tile
constexpr int64 kAhead = 1536;                        // bytes of a panel that are asked for before they are used

#ifdef WITH_VNNI
constexpr int kFlip = 0x80;  // activations are unsigned, 128 more than they are; the sums begin with what corrects that
#else
constexpr int kFlip = 0;
#endif

template <typename To>
CELL To bytes_of(const signed char* p) {
  To found;
  __builtin_memcpy(&found, p, sizeof found);
  return found;
}

typedef signed char Bytes __attribute__((vector_size(VECTOR_BYTES)));

// Each sum plus 4 activations times the 4 weights of its row, without saturation.
CELL Ints dot(Ints sums, int four, Bytes weights) {
#if VECTOR_BYTES == 64
  const __m512i a = _mm512_set1_epi32(four), w = (__m512i)weights;
#ifdef WITH_VNNI
  return (Ints)_mm512_dpbusd_epi32((__m512i)sums, a, w);
#else  // |a| <= 127 and |w| <= 127: two products fit into 16 bits
  const __m512i same = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(a), _mm512_setzero_si512(), w);
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(a), same);
  return sums + (Ints)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#endif
#elif VECTOR_BYTES == 32
  const __m256i a = _mm256_set1_epi32(four), w = (__m256i)weights;
#ifdef WITH_VNNI
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, a, w);
#else
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(w, a));
  return sums + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
#elif defined(__ARM_FEATURE_DOTPROD)
  return (Ints)vdotq_s32((int32x4_t)sums, (int8x16_t)weights, vreinterpretq_s8_s32(vdupq_n_s32(four)));
#else
  signed char a[4];
  __builtin_memcpy(a, &four, 4);
  for (int64 n = 0; n < width; ++n)
    for (int k = 0; k < 4; ++k) sums[n] += a[k] * weights[4 * n + k];
  return sums;
#endif
}

// To the nearest whole numbers, of two the even one.
CELL Ints rounded(V v) {
#if VECTOR_BYTES == 64
  return (Ints)_mm512_cvtps_epi32((__m512)v);
#elif VECTOR_BYTES == 32
  return (Ints)_mm256_cvtps_epi32((__m256)v);
#else
  Ints found{};
  for (int64 n = 0; n < width; ++n) found[n] = int(__builtin_rintf(v[n]));
  return found;
#endif
}

struct Int8 {
  using Sum = Ints;
  using Activation = signed char;
  using Line = Bytes;
  static constexpr int64 group = 4, lines = 4 * VECTOR_BYTES, header = 8 * VECTOR_BYTES;

  // q of a row, and what q is to be multiplied with: NaN where x has a number that is not finite.
  static float prepare(const float* x, int64 depth, Activation* q) {
    Ints most{};
    for (int64 k = 0; k < depth; k += width) {
      const Ints bits = (Ints)load(x + k, depth - k) & 0x7fffffff;  // their order is that of |x|, and NaN is the most
      most = bits > most ? bits : most;
    }
    int top = 0;
    for (int64 n = 0; n < width; ++n) top = most[n] > top ? most[n] : top;
    float largest;
    __builtin_memcpy(&largest, &top, sizeof top);
    const bool finite = top < 0x7f800000;
    const V inverse = V{} + (finite && largest > 1e-30f ? 127 / largest : 0.0f);
    for (int64 k = 0; k < depth; k += width) {
      const Ints whole = rounded(load(x + k, depth - k) * inverse) ^ kFlip;
#if VECTOR_BYTES == 64
      const __m128i bytes = _mm512_cvtepi32_epi8((__m512i)whole);
#else
      typedef signed char Bytes __attribute__((vector_size(VECTOR_BYTES / 4)));
      const Bytes bytes = __builtin_convertvector(whole, Bytes);
#endif
      __builtin_memcpy(q + k, &bytes, sizeof bytes);
    }
    for (int64 k = divide_up(depth, width) * width; k < divide_up(depth, group) * group; ++k) q[k] = 0;
    return finite ? largest / 127 : __builtin_nanf("");
  }

  CELL Sum start(const signed char* block, int gate) {
    return kFlip ? bytes_of<Ints>(block + gate * VECTOR_BYTES) : Ints{};
  }

  CELL Line of(const signed char* panel, int gate) { return bytes_of<Bytes>(panel + gate * VECTOR_BYTES); }

  CELL Sum add(Sum sum, const Activation* q, Line weights) { return dot(sum, bytes_of<int>(q), weights); }

  // value + the product that a sum stands for.
  CELL V plus(V value, Sum sum, float scale, const signed char* block, int gate) {
    const V scales = scale * bytes_of<V>(block + (4 + gate) * VECTOR_BYTES);
    return multiply_add<float>(__builtin_convertvector(sum, V), scales, value);
  }
};

struct Bfloat16 {
  using Sum = V;
  using Activation = float;
  using Line = V;
  static constexpr int64 group = 1, lines = 2 * VECTOR_BYTES, header = 0;

  static float prepare(const float* x, int64 depth, Activation* a) {
    __builtin_memcpy(a, x, depth * sizeof(float));
    return 1;
  }

  CELL Sum start(const signed char*, int) { return V{}; }

  // Of two gates in the lower and the upper half of each float.
  CELL Line of(const signed char* panel, int gate) {
    const Ints two = bytes_of<Ints>(panel + gate / 2 * VECTOR_BYTES);
    return (V)(gate % 2 ? two & int(0xffff0000) : two << 16);
  }

  CELL Sum add(Sum sum, const Activation* a, Line weights) { return multiply_add<float>(V{} + *a, weights, sum); }

  CELL V plus(V value, Sum sum, float, const signed char*, int) { return value + sum; }
};

// A packed matrix (4H, depth), and rows of activations that were prepared for it.
template <typename W>
struct Matrix {
  using Weights = W;
  using Activation = typename W::Activation;
  int64 hidden, depth;
  const signed char* packed;

  int64 blocks() const { return divide_up(hidden, width); }
  int64 groups() const { return divide_up(depth, W::group); }
  const signed char* block(int64 n) const { return packed + n * (W::header + groups() * W::lines); }
  int64 pitch() const { return whole_lines<char>(depth) + 64; }  // not a power of 2: rows would share cache sets
  int64 own_size(int64 rows) const {
    return rows * pitch() * sizeof(Activation) + whole_lines<char>(rows * sizeof(float));
  }

  // Rows of x in a thread's own memory, and their scales.
  struct Prepared {
    Activation* rows;
    float* scales;
  };
  Prepared in(char* own, int64 rows) const {
    return {(Activation*)own, (float*)(own + rows * pitch() * sizeof(Activation))};
  }
  void prepare(const Prepared& to, const float* x, int64 row, int64 rows) const {
    for (int64 r = 0; r < rows; ++r) to.scales[r] = W::prepare(x + r * row, depth, to.rows + r * pitch());
  }

  // M rows times N blocks; `cell` gives what each product is added to and takes the sum.
  template <int M, int N, typename Cell>
  __attribute__((noinline)) void tile(int64 first, const Prepared& a, int64 r0, const Cell& cell) const {
    const signed char *of[N], *panel[N];
    typename W::Sum sums[M][N][4];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      of[n] = block(first + n);
      panel[n] = of[n] + W::header;
#pragma GCC unroll 4
      for (int gate = 0; gate < 4; ++gate)
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r) sums[r][n][gate] = W::start(of[n], gate);
    }
    const Activation* rows = a.rows + r0 * pitch();
    const int64 step = pitch(), end = groups();
    for (int64 k = 0; k < end; ++k)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        typename W::Line weights[4];
#pragma GCC unroll 4
        for (int gate = 0; gate < 4; ++gate) {
          weights[gate] = W::of(panel[n] + k * W::lines, gate);
          __builtin_prefetch(panel[n] + k * W::lines + kAhead + gate * 64);
        }
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
          for (int gate = 0; gate < 4; ++gate)
            sums[r][n][gate] = W::add(sums[r][n][gate], rows + r * step + k * W::group, weights[gate]);
      }
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r) {
        const int64 unit = (first + n) * width, left = hidden - unit;
        Gates<V> z = cell.before(r0 + r, unit, left);
        const float scale = a.scales[r0 + r];
        const auto& sum = sums[r][n];
        z = {W::plus(z.i, sum[0], scale, of[n], 0), W::plus(z.f, sum[1], scale, of[n], 1),
             W::plus(z.g, sum[2], scale, of[n], 2), W::plus(z.o, sum[3], scale, of[n], 3)};
        cell.after(r0 + r, unit, left, z);
      }
  }

  template <int M, typename Cell>
  void up_to(int64 rows, int64 n, const Prepared& a, int64 r0, const Cell& cell) const {
    if constexpr (M > 1)
      if (rows < M) return up_to<M - 1>(rows, n, a, r0, cell);
    tile<M, 1>(n, a, r0, cell);
  }

  template <typename Cell>
  void multiply(Range part, const Prepared& a, int64 rows, const Cell& cell) const {
    int64 n = part.begin;
    if (rows == 1)  // 8 sums at once hide how long one takes
      for (; n + 1 < part.end; n += 2) tile<1, 2>(n, a, 0, cell);
    for (; n < part.end; ++n)
      for (int64 r = 0, m; r < rows; r += m) {
        m = rows - r >= 2 * kRows ? kRows : rows - r > kRows ? (rows - r + 1) / 2 : rows - r;
        up_to<kRows>(m, n, a, r, cell);
      }
  }
};

// y (rows, 4H) = x (rows, depth) times the matrix, plus the bias.
template <typename W>
struct QuantizedProduct : Matrix<W> {
  int64 rows;
  const float *x, *bias;
  float* y;
  char* own;

  static constexpr int64 kChunk = 96;

  struct Cell {
    const float* bias;
    float* y;
    int64 hidden;
    Gates<V> before(int64, int64 unit, int64 left) const {
      return bias ? load_gates(bias + unit, hidden, left) : Gates<V>{};
    }
    void after(int64 row, int64 unit, int64 left, const Gates<V>& z) const {
      store_gates(y + row * 4 * hidden + unit, hidden, z, left);
    }
  };

  void run(int member, int members, Barrier&) const {
    const auto [mine, blocks] = Part(rows, this->blocks(), member, members, rows >= 2 * kRows * members);
    const int64 most = least(rows, kChunk);
    const auto a = this->in(own + member * this->own_size(most), most);
    for (int64 r = mine.begin; r < mine.end; r += kChunk) {
      const int64 count = least(mine.end - r, kChunk);
      this->prepare(a, x + r * this->depth, this->depth, count);
      this->multiply(blocks, a, count, Cell{bias, y + r * 4 * this->hidden, this->hidden});
    }
  }
};

template <typename W>
struct QuantizedForward : Matrix<W> {
  int64 steps, batch;
  const float* z;
  float *h, *c;
  const int64* lengths;
  bool reverse, keep;
  char* own;

  struct Cell {
    const QuantizedForward& p;
    int64 t, before_, after_, row0;

    Gates<V> before(int64 row, int64 unit, int64 left) const {
      return load_gates(p.z + (t * p.batch + row0 + row) * 4 * p.hidden + unit, p.hidden, left);
    }
    void after(int64 row, int64 unit, int64 left, Gates<V>& z) const {
      const int64 H = p.hidden, b = row0 + row;
      const V c_before = load(p.c + ((p.keep ? before_ : 0) * p.batch + b) * H + unit, left);
      V c, h;
      cell_forward<float>(z, c_before, c, h);
      if (p.lengths && t >= p.lengths[b]) {
        c = c_before;
        h = load(p.h + (before_ * p.batch + b) * H + unit, left);
      }
      store(p.c + ((p.keep ? after_ : 0) * p.batch + b) * H + unit, c, left);
      store(p.h + (after_ * p.batch + b) * H + unit, h, left);
    }
  };

  void run(int member, int members, Barrier& barrier, bool split_batch) const {
    const auto [rows, blocks] = Part(batch, this->blocks(), member, members, split_batch);
    const int64 count = rows.end - rows.begin, H = this->hidden;
    const auto a = this->in(own + member * this->own_size(batch), batch);
    for (int64 n = 0; n < steps; ++n) {
      const int64 t = reverse ? steps - 1 - n : n, from = reverse ? t + 1 : t, to = reverse ? t : t + 1;
      this->prepare(a, h + (from * batch + rows.begin) * H, H, count);
      this->multiply(blocks, a, count, Cell{*this, t, from, to, rows.begin});
      if (!split_batch) barrier.wait();
    }
  }
};

template <typename W>
void multiply_quantized(QuantizedProduct<W> p, int64 threads) {
  p.own = scratch<char>(threads * p.own_size(least(p.rows, p.kChunk)));
  run_on(threads, p);
}

template <typename W>
void forward_quantized(QuantizedForward<W> p, int64 threads, bool split_batch) {
  p.own = scratch<char>(threads * p.own_size(p.batch));
  Team::run(int(threads),
            [&](int member, int members, Barrier& barrier) { p.run(member, members, barrier, split_batch); });
}

// A matrix whose packed memory must be what it takes.
template <typename W>
Matrix<W> matrix(int64 hidden, int64 depth, int64 bytes, const signed char* packed) {
  const Matrix<W> found{hidden, depth, packed};
  if (found.block(found.blocks()) != packed + bytes) throw Refused();
  return found;
}

#define ENTRY_OF(name, kind) EXPORTED int JOINED(name##kind, f32, SET)
#define ENTRY_NAMED(name, kind) ENTRY_OF(name, kind)
#define ENTRY(name) ENTRY_NAMED(name, KIND)

ENTRY(quantized_multiply)(int64 rows, int64 hidden, int64 depth, int64 bits, int64 bytes, const float* x,
                          const signed char* packed, const float* bias, float* y, int64 threads) {
  return guarded([&] {
    const auto on = [&](auto of) {
      multiply_quantized(QuantizedProduct<typename decltype(of)::Weights>{of, rows, x, bias, y, nullptr}, threads);
    };
    if (bits == 8) on(matrix<Int8>(hidden, depth, bytes, packed));
    else on(matrix<Bfloat16>(hidden, depth, bytes, packed));
  });
}

ENTRY(quantized_forward)(int64 steps, int64 batch, int64 hidden, int64 bits, int64 bytes, const float* z,
                         const signed char* packed, float* h, float* c, const int64* lengths, int64 reverse,
                         int64 keep, int64 threads, int64 split_batch) {
  return guarded([&] {
    const auto on = [&](auto of) {
      forward_quantized(QuantizedForward<typename decltype(of)::Weights>{of, steps, batch, z, h, c, lengths,
                                                                         reverse != 0, keep != 0, nullptr},
                        threads, split_batch != 0);
    };
    if (bits == 8) on(matrix<Int8>(hidden, hidden, bytes, packed));
    else on(matrix<Bfloat16>(hidden, hidden, bytes, packed));
  });
}

#undef ENTRY
#undef ENTRY_NAMED
#undef ENTRY_OF
