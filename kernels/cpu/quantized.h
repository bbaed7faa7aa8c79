// Weights of 8 bits, or of bfloat16, for inference: the product of some rows with them, and the recurrence.
//
// Included for each instruction set, without and with VNNI (quantized_set.h). A packed matrix (4H, depth) has blocks of
// `width` units, as `Packed` in gpu_lstm/recurrence/quantized.py makes them: [k / group][gate][unit][k % group]; of 8
// bits, before that -128 times each row's sum and its scale, [gate][unit] each.
//
// 8 bits: a row of activations becomes q = round(127 x / max |x|), and sums of q w are whole numbers. So they are the
// same to the last bit in whatever order, on every instruction set.

using V = Simd<float>::V;
typedef int Ints __attribute__((vector_size(VECTOR_BYTES)));
constexpr int64 width = Simd<float>::width;
constexpr int kRows = VECTOR_BYTES == 64 ? 6 : 3;  // of a tile, whose sums stay in registers
constexpr int64 kAhead = VECTOR_BYTES == 64 ? 1536 : 0;  // bytes of a panel that are asked for before their use

#ifdef WITH_VNNI
constexpr int kFlip = 0x80;  // activations are unsigned, 128 more than they are; the sums begin with what corrects that
#else
constexpr int kFlip = 0;
#endif
// AVX2 multiplies unsigned by signed numbers: each 4 activations lie as their magnitudes, then as all bits where they are
// negative. A weight with its bits flipped is -w - 1: the sums begin with the magnitudes of all that are negative.
constexpr bool kApart = VECTOR_BYTES == 32 && !kFlip;

template <typename To>
CELL To bytes_of(const signed char* p) {
  To found;
  __builtin_memcpy(&found, p, sizeof found);
  return found;
}

typedef signed char Bytes __attribute__((vector_size(VECTOR_BYTES)));

// Each sum plus 4 activations times the 4 weights of its row, without saturation: |a| <= 127 and |w| <= 127, and two
// products of them, or of -w - 1, fit into 16 bits.
CELL Ints dot(Ints sums, const signed char* four, Bytes weights) {
#if VECTOR_BYTES == 64
  const __m512i a = _mm512_set1_epi32(bytes_of<int>(four)), w = (__m512i)weights;
#ifdef WITH_VNNI
  return (Ints)_mm512_dpbusd_epi32((__m512i)sums, a, w);
#else
  const __m512i same = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(a), _mm512_setzero_si512(), w);
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(a), same);
  return sums + (Ints)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#endif
#elif VECTOR_BYTES == 32
  const __m256i a = _mm256_set1_epi32(bytes_of<int>(four)), w = (__m256i)weights;
#ifdef WITH_VNNI
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, a, w);
#else
  const __m256i pairs = _mm256_maddubs_epi16(a, w ^ _mm256_set1_epi32(bytes_of<int>(four + 4)));
  return sums + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
#elif defined(__ARM_FEATURE_DOTPROD)
  return (Ints)vdotq_s32((int32x4_t)sums, (int8x16_t)weights, vreinterpretq_s8_s32(vdupq_n_s32(bytes_of<int>(four))));
#else
  for (int64 n = 0; n < width; ++n)
    for (int k = 0; k < 4; ++k) sums[n] += four[k] * weights[4 * n + k];
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

// What the sums of a row of activations are to be multiplied with, and begin with.
struct Row {
  float scale;
  int start;
};

struct Int8 {
  using Sum = Ints;
  using Activation = signed char;
  using Line = Bytes;
  static constexpr int rows = kApart ? 2 : kRows;
  static constexpr int64 group = 4, stride = kApart ? 8 : 4, lines = 4 * VECTOR_BYTES, header = 8 * VECTOR_BYTES;

  // q of a row; its scale is NaN where x has a number that is not finite.
  static Row prepare(const float* x, int64 depth, Activation* q) {
    Ints most{}, start{};
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
      const Ints whole = rounded(load(x + k, depth - k) * inverse);
      to_bytes(whole, q + k / group * stride);
      if (kApart) start += whole < 0 ? -whole : Ints{};
    }
    for (int64 k = divide_up(depth, width) * width; !kApart && k < divide_up(depth, group) * group; ++k) q[k] = 0;
    int total = 0;
    for (int64 n = 0; n < width; ++n) total += start[n];
    return {finite ? largest / 127 : __builtin_nanf(""), total};
  }

  static void to_bytes(Ints whole, Activation* q) {
#if VECTOR_BYTES == 64
    const __m128i bytes = _mm512_cvtepi32_epi8((__m512i)(whole ^ kFlip));
#elif VECTOR_BYTES == 32 && !defined(WITH_VNNI)
    const __m256i both = _mm256_packs_epi32(_mm256_abs_epi32((__m256i)whole), (__m256i)(whole < 0));
    const __m256i found = _mm256_permute4x64_epi64(_mm256_packs_epi16(both, both), 0x08);
    const __m128i bytes = _mm256_castsi256_si128(found);
#else
    typedef signed char Bytes __attribute__((vector_size(VECTOR_BYTES / 4)));
    const Bytes bytes = __builtin_convertvector(whole ^ kFlip, Bytes);
#endif
    __builtin_memcpy(q, &bytes, sizeof bytes);
  }

  CELL Sum start(const Row& row, const signed char* block, int gate) {
    return kFlip ? bytes_of<Ints>(block + gate * VECTOR_BYTES) : Ints{} + row.start;
  }

  CELL Line of(const signed char* panel, int gate) { return bytes_of<Bytes>(panel + gate * VECTOR_BYTES); }

  CELL Sum add(Sum sum, const Activation* q, Line weights) { return dot(sum, q, weights); }

  // value + the product that a sum stands for.
  CELL V plus(V value, Sum sum, const Row& row, const signed char* block, int gate) {
    const V scales = row.scale * bytes_of<V>(block + (4 + gate) * VECTOR_BYTES);
    return multiply_add<float>(__builtin_convertvector(sum, V), scales, value);
  }
};

struct Bfloat16 {
  using Sum = V;
  using Activation = float;
  using Line = V;
  static constexpr int rows = kRows;
  static constexpr int64 group = 1, stride = 1, lines = 2 * VECTOR_BYTES, header = 0;

  static Row prepare(const float* x, int64 depth, Activation* a) {
    __builtin_memcpy(a, x, depth * sizeof(float));
    return {};
  }

  CELL Sum start(const Row&, const signed char*, int) { return V{}; }

  // Of two gates in the lower and the upper half of each float.
  CELL Line of(const signed char* panel, int gate) {
    const Ints two = bytes_of<Ints>(panel + gate / 2 * VECTOR_BYTES);
    return (V)(gate % 2 ? two & int(0xffff0000) : two << 16);
  }

  CELL Sum add(Sum sum, const Activation* a, Line weights) { return multiply_add<float>(V{} + *a, weights, sum); }

  CELL V plus(V value, Sum sum, const Row&, const signed char*, int) { return value + sum; }
};

// Where products go: the four gates of a row, `apart` from one another, and what is added to them, or null.
struct Target {
  float* to;
  int64 pitch, apart;
  const float* add;
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
  // Not a power of 2: rows would share cache sets.
  int64 pitch() const { return whole_lines<char>(depth) * W::stride / W::group + 64; }
  int64 own_size(int64 rows) const {
    return rows * pitch() * sizeof(Activation) + whole_lines<char>(rows * sizeof(Row));
  }

  // Rows of x in a thread's own memory.
  struct Prepared {
    Activation* rows;
    Row* each;
  };
  Prepared in(char* own, int64 rows) const {
    return {(Activation*)own, (Row*)(own + rows * pitch() * sizeof(Activation))};
  }
  void prepare(const Prepared& to, const float* x, int64 row, int64 rows) const {
    for (int64 r = 0; r < rows; ++r) to.each[r] = W::prepare(x + r * row, depth, to.rows + r * pitch());
  }

  // M rows times N blocks.
  template <int M, int N>
  __attribute__((noinline)) void tile(int64 first, const Prepared& a, int64 r0, const Target& target) const {
    const signed char *of[N], *panel[N];
    typename W::Sum sums[M][N][4];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      of[n] = block(first + n);
      panel[n] = of[n] + W::header;
#pragma GCC unroll 4
      for (int gate = 0; gate < 4; ++gate)
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r) sums[r][n][gate] = W::start(a.each[r0 + r], of[n], gate);
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
          if (kAhead && gate * 64 < W::lines) __builtin_prefetch(panel[n] + k * W::lines + kAhead + gate * 64);
        }
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
          for (int gate = 0; gate < 4; ++gate)
            sums[r][n][gate] = W::add(sums[r][n][gate], rows + r * step + k * W::stride, weights[gate]);
      }
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r) {
        const int64 unit = (first + n) * width, left = hidden - unit;
        Gates<V> z = target.add ? load_gates(target.add + unit, target.apart, left) : Gates<V>{};
        const Row& row = a.each[r0 + r];
        const auto& sum = sums[r][n];
        z = {W::plus(z.i, sum[0], row, of[n], 0), W::plus(z.f, sum[1], row, of[n], 1),
             W::plus(z.g, sum[2], row, of[n], 2), W::plus(z.o, sum[3], row, of[n], 3)};
        store_gates(target.to + (r0 + r) * target.pitch + unit, target.apart, z, left);
      }
  }

  template <int M>
  void up_to(int64 rows, int64 n, const Prepared& a, int64 r0, const Target& target) const {
    if constexpr (M > 1)
      if (rows < M) return up_to<M - 1>(rows, n, a, r0, target);
    tile<M, 1>(n, a, r0, target);
  }

  void multiply(Range part, const Prepared& a, int64 rows, const Target& target) const {
    int64 n = part.begin;
    if (rows == 1)  // 8 sums at once hide how long one takes
      for (; n + 1 < part.end; n += 2) tile<1, 2>(n, a, 0, target);
    for (; n < part.end; ++n)
      for (int64 r = 0, m; r < rows; r += m) {
        m = rows - r >= 2 * W::rows ? W::rows : rows - r > W::rows ? (rows - r + 1) / 2 : rows - r;
        up_to<W::rows>(m, n, a, r, target);
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

  void run(int member, int members, Barrier&) const {
    const auto [mine, blocks] = Part(rows, this->blocks(), member, members, rows >= 2 * W::rows * members);
    const int64 most = least(rows, kChunk), H = this->hidden;
    const auto a = this->in(own + member * this->own_size(most), most);
    for (int64 r = mine.begin; r < mine.end; r += kChunk) {
      const int64 count = least(mine.end - r, kChunk);
      this->prepare(a, x + r * this->depth, this->depth, count);
      this->multiply(blocks, a, count, {y + r * 4 * H, 4 * H, H, bias});
    }
  }
};

// The plain recurrence, but for its product.
template <typename W>
struct QuantizedForward : Matrix<W> {
  Forward<float> of;
  char* own;  // of each thread: sums, then rows

  static constexpr int64 kTogether = Simd<float>::panel / width;  // blocks of the matrix, in one of the recurrence

  int64 size() const { return of.own_size() * sizeof(float) + this->own_size(of.batch); }

  void run(int member, int members, Barrier& barrier, bool split_batch) const {
    const auto [rows, units] = Part(of.batch, of.blocks(), member, members, split_batch);
    float* sums = (float*)(own + member * size());
    const auto a = this->in((char*)(sums + of.own_size()), of.batch);
    for (int64 n = 0; n < of.steps; ++n) {
      const int64 t = of.reverse ? of.steps - 1 - n : n;
      const int64 before = of.reverse ? t + 1 : t, after = of.reverse ? t : t + 1;
      this->prepare(a, of.h + (before * of.batch + rows.begin) * of.hidden, of.hidden, rows.end - rows.begin);
      for (int64 first = units.begin; first < units.end; first += of.kBlocks) {
        const Range some{first, least(first + of.kBlocks, units.end)};
        const Range blocks{some.begin * kTogether, least(some.end * kTogether, this->blocks())};
        const int64 wide = of.first(some.end - some.begin);
        for (int64 b = rows.begin; b < rows.end; b += of.kRows) {
          const int64 count = least(rows.end - b, of.kRows), begin = b - rows.begin;
          this->multiply(blocks, {a.rows + begin * this->pitch(), a.each + begin}, count,
                         {sums - of.first(first), wide, count * wide, nullptr});
          of.cells(t, before, after, {b, b + count}, some, sums);
        }
      }
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
  p.own = scratch<char>(threads * p.size());
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

// with(Int8 or Bfloat16).
template <typename With>
void by_bits(int64 bits, const With& with) {
  bits == 8 ? with(Int8{}) : with(Bfloat16{});
}

#define ENTRY_OF(name, kind) EXPORTED int JOINED(name##kind, f32, SET)
#define ENTRY_NAMED(name, kind) ENTRY_OF(name, kind)
#define ENTRY(name) ENTRY_NAMED(name, KIND)

ENTRY(quantized_multiply)(int64 rows, int64 hidden, int64 depth, int64 bits, int64 bytes, const float* x,
                          const signed char* packed, const float* bias, float* y, int64 threads) {
  return guarded([&] {
    by_bits(bits, [&](auto kind) {
      using W = decltype(kind);
      const auto weight = matrix<W>(hidden, depth, bytes, packed);
      multiply_quantized(QuantizedProduct<W>{weight, rows, x, bias, y, nullptr}, threads);
    });
  });
}

ENTRY(quantized_forward)(int64 steps, int64 batch, int64 hidden, int64 bits, int64 bytes, float* z,
                         const signed char* packed, float* h, float* c, const int64* lengths, int64 reverse, int64 keep,
                         int64 threads, int64 split_batch) {
  return guarded([&] {
    by_bits(bits, [&](auto kind) {
      using W = decltype(kind);
      const auto weight = matrix<W>(hidden, hidden, bytes, packed);
      const Forward<float> of{steps, batch, hidden, z, h, c, nullptr, lengths, reverse != 0, keep != 0, nullptr};
      forward_quantized(QuantizedForward<W>{weight, of, nullptr}, threads, split_batch != 0);
    });
  });
}

// As `infer` of inference.h, the bits of the two above.
ENTRY(quantized_infer)(int64 steps, int64 batch, int64 inputs, int64 hidden, int64 bits, int64 bytes_ih, int64 bytes_hh,
                       const float* x, const signed char* ih, const float* bias, const signed char* hh, int64 some,
                       float* h, float* c, int64 around, int64 threads, int64 split_batch, int64 every, int64 places) {
  return guarded([&] {
    if (some < 1 || every < 1) throw Refused();
    float* z = scratch<float, 1>(least(some, steps) * batch * 4 * hidden);
    by_bits(bits, [&](auto kind) {
      using W = decltype(kind);
      const auto weight_ih = matrix<W>(hidden, inputs, bytes_ih, ih);
      const auto weight_hh = matrix<W>(hidden, hidden, bytes_hh, hh);
      for (int64 t = 0; t < steps; t += some) {
        const int64 n = least(some, steps - t);
        multiply_quantized(QuantizedProduct<W>{weight_ih, n * batch, x + t * batch * inputs, bias, z, nullptr}, around);
        for_stretches(t, n, every, [&](int64 from, int64 count) {
          float *here = z + (from - t) * batch * 4 * hidden, *before = h + from * batch * hidden;
          const Forward<float> of{count, batch, hidden, here, before, c, nullptr, nullptr, false, false, nullptr};
          forward_quantized(QuantizedForward<W>{weight_hh, of, nullptr}, threads, split_batch != 0);
          round_state(from + count, every, places, batch * hidden, h, c);
        });
      }
    });
  });
}

#undef ENTRY
#undef ENTRY_NAMED
#undef ENTRY_OF
