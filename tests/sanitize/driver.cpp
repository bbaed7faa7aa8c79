// Calls every entry of the compiled CPU tier on small shapes, for a build with sanitizers (run.sh).
//
// All arrays are separate heap blocks of exactly the needed size, so that one element too far is seen. Every result
// must be the same, byte for byte, on 1 thread and on several, and from two callers at once; and where an allocation
// fails, the entry must say so, and work the next time.
//
// `driver record FILE` writes the results in float64, and `driver compare FILE` holds those of another build, in
// float64 and float32, to them: that of a processor which runs no Python here to that of one whose tests do (tests/arm).

#ifdef _WIN32
#include <malloc.h>
#else
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../../kernels/cpu/lstm_cpu.cpp"

namespace {

int failures = 0;
thread_local bool inside = false;  // an entry of the library
int64 fails_at = -1;                // which of its allocations fails, counted from 0; negative: none
bool failed = false;

struct NoMemory {};

void* allocate(std::size_t size, std::size_t alignment) {
  if (inside && fails_at >= 0 && fails_at-- == 0) {
    failed = true;
    throw std::bad_alloc();
  }
#ifdef _WIN32
  void* memory = _aligned_malloc(size, alignment);
  if (!memory) throw std::bad_alloc();
#else
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, size)) throw std::bad_alloc();
#endif
  return memory;
}

void give_back(void* memory) noexcept {
#ifdef _WIN32
  _aligned_free(memory);
#else
  std::free(memory);
#endif
}

template <typename Entry, typename... Arguments>
void call(const Entry& entry, int64 set, Arguments... arguments) {
  inside = true;
  const int status = entry[set](arguments...);
  inside = false;
  if (status == kNoMemory) throw NoMemory{};
  if (status != kDone && ++failures <= 10) std::printf("an entry gave status %d\n", status);
}

template <typename T>
std::vector<T> random_numbers(int64 count, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> draw(-1, 1);
  std::vector<T> numbers(count);
  for (T& number : numbers) number = T(float(draw(generator)));  // the same ones in float64
  return numbers;
}

// An entry, as each instruction set has it that is compiled: all of them, or the one of a PART (lstm_cpu.cpp).
#define OF(set, name, suffix) set::suffix::gpu_lstm_##name##_##suffix##_##set
#if defined(PART) && PART / 2 == 2
#define ENTRY(name, suffix) static constexpr std::array name{OF(avx512, name, suffix)};
#elif defined(PART) && PART / 2 == 1
#define ENTRY(name, suffix) static constexpr std::array name{OF(avx2, name, suffix)};
#elif defined(PART) || !defined(WITH_X86)
#define ENTRY(name, suffix) static constexpr std::array name{OF(baseline, name, suffix)};
#else
#define ENTRY(name, suffix) \
  static constexpr std::array name{OF(baseline, name, suffix), OF(avx2, name, suffix), OF(avx512, name, suffix)};
#endif
#ifdef PART
constexpr bool kFloats = PART % 2 == 0, kDoubles = !kFloats;
int64 last_set() { return 0; }  // who compiles a part runs it where the processor has its instruction set
#else
constexpr bool kFloats = true, kDoubles = true;
int64 last_set() { return gpu_lstm_best_set(); }
#endif

template <typename T>
struct Entries;
#define ENTRIES_OF(T, suffix) \
  template <>                 \
  struct Entries<T> {         \
    ENTRY(forward, suffix) \
    ENTRY(backward, suffix) \
    ENTRY(multiply, suffix) \
    ENTRY(pack, suffix) \
    ENTRY(infer, suffix) \
    ENTRY(family_forward, suffix) \
    ENTRY(family_backward, suffix) \
    ENTRY(generate, suffix) \
    ENTRY(activate, suffix) \
    ENTRY(weight_gradients, suffix) \
    ENTRY(cross_entropy, suffix) \
    ENTRY(scatter_add, suffix) \
    ENTRY(square_sums, suffix) \
    ENTRY(update, suffix) \
  };
#if HAS(0) || HAS(2) || HAS(4)
ENTRIES_OF(float, f32)
#endif
#if HAS(1) || HAS(3) || HAS(5)
ENTRIES_OF(double, f64)
#endif

#if HAS(0) || HAS(2) || HAS(4)
// Those of weights of few bits, without VNNI and with it.
#define WITHOUT(set, name) set::plain::gpu_lstm_##name##_f32_##set
#define WITH(set, name) set::vnni::gpu_lstm_##name##_vnni_f32_##set
#ifdef KNOWS_AVXVNNI
#define BOTH_avx2(name) WITHOUT(avx2, name), WITH(avx2, name)
#else
#define BOTH_avx2(name) WITHOUT(avx2, name), WITHOUT(avx2, name)
#endif
#define BOTH_avx512(name) WITHOUT(avx512, name), WITH(avx512, name)
#define BOTH_baseline(name) WITHOUT(baseline, name), WITHOUT(baseline, name)
#if defined(PART) && PART == 4
#define ENTRY_OF_BITS(name) constexpr std::array name{BOTH_avx512(name)};
#elif defined(PART) && PART == 2
#define ENTRY_OF_BITS(name) constexpr std::array name{BOTH_avx2(name)};
#elif defined(PART) || !defined(WITH_X86)
#define ENTRY_OF_BITS(name) constexpr std::array name{BOTH_baseline(name)};
#else
#define ENTRY_OF_BITS(name) constexpr std::array name{BOTH_baseline(name), BOTH_avx2(name), BOTH_avx512(name)};
#endif
ENTRY_OF_BITS(quantized_multiply)
ENTRY_OF_BITS(quantized_forward)
ENTRY_OF_BITS(quantized_infer)

#ifdef PART
int64 number_of(int64) { return PART / 2; }
#else
int64 number_of(int64 set) { return set; }
#endif

bool has_vnni([[maybe_unused]] int64 set) {
#ifdef WITH_X86
  const Processor has;
  return number_of(set) == 2 ? has.avx512_vnni : number_of(set) == 1 && has.avx_vnni;
#else
  return false;
#endif
}

// A matrix (4H, depth) of random weights, as quantized.h takes it.
std::vector<signed char> packed_bits(int64 set, int64 bits, int64 hidden, int64 depth, unsigned seed) {
  const auto weights = random_numbers<float>(4 * hidden * depth, seed);
  const int64 width = 4 << number_of(set), group = bits == 8 ? 4 : 1, groups = (depth + group - 1) / group;
  std::vector<signed char> all;
  auto add = [&](auto number) {
    const auto* bytes = reinterpret_cast<const signed char*>(&number);
    all.insert(all.end(), bytes, bytes + sizeof number);
  };
  for (int64 first = 0; first < hidden; first += width) {
    auto at = [&](int64 gate, int64 n, int64 k) {
      return first + n < hidden && k < depth ? weights[(gate * hidden + first + n) * depth + k] : 0.0f;
    };
    auto whole = [&](int64 gate, int64 n, int64 k) { return int(std::lrint(127 * at(gate, n, k))); };
    for (int64 row = 0; bits == 8 && row < 4 * width; ++row) {
      int sum = 0;
      for (int64 k = 0; k < depth; ++k) sum += whole(row / width, row % width, k);
      add(-128 * sum);
    }
    for (int64 row = 0; bits == 8 && row < 4 * width; ++row) add(float(1 + (first + row % width) % 3) / 256);
    for (int64 k = 0; k < groups; ++k)
      for (int64 gate = 0; gate < 4; gate += bits == 8 ? 1 : 2)
        for (int64 n = 0; n < width; ++n)
          if (bits == 8) {
            for (int64 j = 0; j < 4; ++j) add((signed char)whole(gate, n, 4 * k + j));
          } else {
            for (int64 j = 0; j < 2; ++j) {  // the upper half of a float
              unsigned number;
              const float weight = at(gate + j, n, k);
              std::memcpy(&number, &weight, sizeof number);
              add((unsigned short)(number >> 16));
            }
          }
  }
  return all;
}

// A layer with weights of few bits: product and recurrence, then both in one call.
std::vector<float> few_bits(int64 set, bool vnni, int64 bits, int64 batch, int64 inputs, int64 hidden, bool lengths,
                            bool keep, int64 threads, bool split_batch) {
  const int64 steps = 4, entry = 2 * set + vnni;
  const auto ih = packed_bits(set, bits, hidden, inputs, 1), hh = packed_bits(set, bits, hidden, hidden, 2);
  const auto x = random_numbers<float>(steps * batch * inputs, 3), bias = random_numbers<float>(4 * hidden, 4);
  auto z = random_numbers<float>(steps * batch * 4 * hidden, 5);
  auto h = random_numbers<float>((steps + 1) * batch * hidden, 6), h_whole = h;
  auto c = random_numbers<float>((keep ? steps + 1 : 1) * batch * hidden, 7);
  std::vector<float> c_whole(c.begin(), c.begin() + batch * hidden);
  std::vector<int64> ends(batch);
  for (int64 b = 0; b < batch; ++b) ends[b] = 1 + (b * 5 + 2) % steps;
  call(quantized_multiply, entry, steps * batch, hidden, inputs, bits, int64(ih.size()), x.data(), ih.data(),
       bias.data(), z.data(), threads);
  std::vector<float> all(z);
  call(quantized_forward, entry, steps, batch, hidden, bits, int64(hh.size()), z.data(), hh.data(), h.data(), c.data(),
       lengths ? ends.data() : nullptr, keep, keep, threads, split_batch);
  call(quantized_infer, entry, steps, batch, inputs, hidden, bits, int64(ih.size()), int64(hh.size()), x.data(),
       ih.data(), bias.data(), hh.data(), 3, h_whole.data(), c_whole.data(), threads, threads, split_batch, 2, 20);
  for (const auto* part : {&z, &h, &c, &h_whole, &c_whole}) all.insert(all.end(), part->begin(), part->end());
  return all;
}
#endif

// A layer's inference in one call, some steps at a time, its state rounded on the way.
template <typename T>
std::vector<T> layer(int64 set, int64 batch, int64 inputs, int64 hidden, int64 threads, bool split_batch) {
  const int64 steps = 5;
  auto weight_ih = random_numbers<T>(4 * hidden * inputs, 1), weight_hh = random_numbers<T>(4 * hidden * hidden, 2);
  auto x = random_numbers<T>(steps * batch * inputs, 3), bias = random_numbers<T>(4 * hidden, 4);
  auto h = random_numbers<T>((steps + 1) * batch * hidden, 5), c = random_numbers<T>(batch * hidden, 6);
  const int64 rows = (4 * hidden + 63) / 64 * 64;
  std::vector<T> ih(rows * inputs), hh(rows * hidden);
  call(Entries<T>::pack, set, 0, 4 * hidden, inputs, weight_ih.data(), ih.data());
  call(Entries<T>::pack, set, 1, 4 * hidden, hidden, weight_hh.data(), hh.data());
  call(Entries<T>::infer, set, steps, batch, inputs, hidden, x.data(), ih.data(), bias.data(), hh.data(), 3, h.data(),
       c.data(), threads, threads, split_batch, 2, 20);
  h.insert(h.end(), c.begin(), c.end());
  return h;
}

// All results of forward and backward of one recurrence, or of two at once, which go in opposite directions.
template <typename T>
std::vector<T> recurrences(int64 set, int64 count, int64 steps, int64 batch, int64 hidden, bool lengths, bool keep,
                           int64 threads, bool split_batch) {
  std::vector<std::vector<T>> arrays[7];
  const int64 sizes[] = {steps * batch * 4 * hidden,  4 * hidden * hidden, (steps + 1) * batch * hidden,
                        (keep ? steps + 1 : 1) * batch * hidden, steps * batch * hidden, batch * hidden, batch * hidden};
  T* pointers[7][2];
  for (int array = 0; array < 7; ++array) {
    for (int64 n = 0; n < count; ++n) arrays[array].push_back(random_numbers<T>(sizes[array], unsigned(2 * array + n)));
    for (int64 n = 0; n < count; ++n) pointers[array][n] = arrays[array][n].data();
  }
  const auto& [z, weight, h, c, dy, dh, dc] = pointers;
  std::vector<int64> ends(batch);
  for (int64 b = 0; b < batch; ++b) ends[b] = 1 + (b * 5 + 2) % steps;
  const int64* const limits[] = {lengths ? ends.data() : nullptr, nullptr};
  const int64 reverse[] = {0, 1}, rows[] = {hidden, hidden};
  // Without backward, of packed weights.
  std::vector<T> packed[2];
  const T* kept[2] = {};
  for (int64 n = 0; n < count && !keep; ++n) {
    packed[n].resize((4 * hidden + 63) / 64 * 64 * hidden);
    call(Entries<T>::pack, set, 1, 4 * hidden, hidden, weight[n], packed[n].data());
    kept[n] = packed[n].data();
  }
  call(Entries<T>::forward, set, steps, batch, hidden, count, z, weight, kept, h, c, limits, reverse, keep, threads,
       split_batch);
  std::vector<T> all(arrays[2][0]);
  if (keep)
    call(Entries<T>::backward, set, steps, batch, hidden, count, z, weight, c, dy, rows, dh, dc, limits, reverse,
         threads, split_batch);
  for (const auto& each : arrays)
    for (const auto& array : each) all.insert(all.end(), array.begin(), array.end());
  return all;
}

// `recurrence` of the LSTM family, with a projection to `size` or without one (0), layer normalisation or none, and all
// other options on or as numbers.
template <typename T>
std::vector<T> family(int64 set, int64 steps, int64 batch, int64 hidden, int64 size, int64 heads, bool norm, bool on,
                      bool reverse, bool keep, int64 threads, bool split_batch) {
  const bool project = size > 0;
  if (!project) size = hidden;
  auto z = random_numbers<T>(steps * batch * 4 * hidden, 1), weight = random_numbers<T>(4 * hidden * size / heads, 2);
  auto h = random_numbers<T>((steps + 1) * batch * size, 3);
  auto c = random_numbers<T>((keep ? steps + 1 : 1) * batch * hidden, 4);
  auto dy = random_numbers<T>(steps * batch * size, 5), dh = random_numbers<T>(batch * size, 6);
  auto dc = random_numbers<T>(batch * hidden, 7), dc_each = random_numbers<T>(steps * batch * hidden, 8);
  auto peepholes = random_numbers<T>(3 * hidden, 9), projection = random_numbers<T>(size * hidden, 10);
  auto zoneout_h = random_numbers<T>(steps * batch * size, 11), mask = random_numbers<T>(batch * size, 12);
  auto zoneout_c = random_numbers<T>(steps * batch * hidden, 13), live = random_numbers<T>(steps * batch, 14);
  std::vector<T> cells(keep ? steps * batch * hidden : 0), m(project ? (keep ? steps : 1) * batch * hidden : 0);
  auto gains = random_numbers<T>(4 * hidden, 15), gain_c = random_numbers<T>(hidden, 16);
  auto shift_c = random_numbers<T>(hidden, 17);
  std::vector<T> normalised(norm ? (keep ? steps : 1) * batch * 4 * hidden : 0);
  std::vector<T> scales(norm ? (keep ? steps : 1) * batch : 0), dnorm(norm ? batch * 6 * hidden : 0);
  std::vector<T> projected(project ? steps * batch * size : 0), dpeepholes(3 * batch * hidden);
  std::vector<int64> ends(batch);
  for (int64 b = 0; b < batch; ++b) ends[b] = 1 + (b * 5 + 2) % steps;
  const int64* limits = on ? ends.data() : nullptr;
  const double numbers[] = {0.7, 0.4, 0.33, 0.66, -0.6, 0.6, 0.25, 0.125, 1e-5, 0.1, double(on), double(!on), double(on)};
  auto given = [](bool is_on, const std::vector<T>& array) { return is_on ? array.data() : nullptr; };
  T *const unprojected = project ? m.data() : nullptr, *const rows = norm ? normalised.data() : nullptr;
  T *const factors = norm ? scales.data() : nullptr, *const gradients = norm ? dnorm.data() : nullptr;
  auto with_options = [&](const auto& entry, auto... rest) {
    call(entry, set, steps, batch, hidden, size, heads, int64(std::size(numbers)), numbers, given(on, peepholes),
         given(norm, gains), given(norm, gain_c), given(norm, shift_c), given(on, zoneout_h), given(on, zoneout_c),
         given(on, mask), given(on, live), weight.data(), given(project, projection), rest...);
  };
  with_options(Entries<T>::family_forward, z.data(), h.data(), c.data(), keep ? cells.data() : nullptr, unprojected,
               rows, factors, limits, reverse, keep, threads, split_batch);
  std::vector<T> all(h);
  if (keep)
    with_options(Entries<T>::family_backward, z.data(), c.data(), cells.data(), dy.data(), size, dc_each.data(), hidden,
         dh.data(), dc.data(), project ? projected.data() : nullptr, on ? dpeepholes.data() : nullptr, rows, factors,
         gradients, limits, reverse, threads, split_batch);
  for (const auto* part : {&c, &cells, &z, &dh, &dc, &projected, &dpeepholes, &normalised, &scales, &dnorm})
    all.insert(all.end(), part->begin(), part->end());
  return all;
}

template <typename T>
std::vector<T> product(int64 set, int64 rows, int64 columns, int64 depth, bool transposed, int64 threads) {
  auto a = random_numbers<T>(rows * depth, 1), b = random_numbers<T>(depth * columns, 2);
  auto bias = random_numbers<T>(columns, 3);
  std::vector<T> c(rows * columns);
  const int64 a_row = transposed ? 1 : depth, a_column = transposed ? rows : 1;
  const int64 b_row = transposed ? 1 : columns, b_column = transposed ? depth : 1;
  std::vector<T> packed(transposed ? (columns + 63) / 64 * 64 * depth : 0);
  if (transposed) call(Entries<T>::pack, set, 0, columns, depth, b.data(), packed.data());
  call(Entries<T>::multiply, set, rows, columns, depth, a.data(), a_row, a_column, b.data(), b_row, b_column,
       transposed ? packed.data() : nullptr, c.data(), bias.data(), threads);
  return c;
}

template <typename T>
std::vector<T> gradients(int64 set, int64 rows, int64 outputs, int64 threads) {
  const std::vector<int64> columns{3, 21};
  auto dy = random_numbers<T>(rows * outputs, 1), x0 = random_numbers<T>(rows * columns[0], 2);
  auto x1 = random_numbers<T>(rows * columns[1], 3);
  std::vector<T> dw0(outputs * columns[0]), dw1(outputs * columns[1]), db(outputs);
  const std::vector<const T*> inputs{x0.data(), x1.data()};
  const std::vector<T*> dw{dw0.data(), dw1.data()};
  for (int64 count : {1, 2})
    call(Entries<T>::weight_gradients, set, rows, outputs, dy.data(), count, columns.data(), inputs.data(), dw.data(),
                                      db.data(), threads);
  for (const auto* part : {&dw1, &db}) dw0.insert(dw0.end(), part->begin(), part->end());
  return dw0;
}

// Cross-entropy, embedding gradient, norm and all optimizers.
template <typename T>
std::vector<T> training(int64 set, int64 rows, int64 vocabulary, int64 threads) {
  auto logits = random_numbers<T>(rows * vocabulary, 1), table = random_numbers<T>(vocabulary * vocabulary, 2);
  std::vector<int64> tokens(rows);
  for (int64 n = 0; n < rows; ++n) tokens[n] = n % 4 == 3 ? -1 : n % vocabulary;
  std::vector<T> losses(rows);
  const double scale = 0.5;
  call(Entries<T>::cross_entropy, set, rows, vocabulary, logits.data(), tokens.data(), scale, losses.data(), threads);
  for (int64& token : tokens) token = token < 0 ? 0 : token;
  call(Entries<T>::scatter_add, set, vocabulary, rows, vocabulary, table.data(), tokens.data(), logits.data(),
                               threads);
  const std::vector<int64> sizes{1, 5000, 33};
  std::vector<std::vector<T>> parts;
  std::vector<T*> params, gradients, states;
  for (unsigned seed = 0; seed < 12; ++seed) parts.push_back(random_numbers<T>(sizes[seed % 3], seed));
  for (auto& part : parts)
    for (T& number : part) number = number < 0 ? -number : number;  // squares among the states
  for (int64 n = 0; n < 12; ++n)
    (n < 3 ? params : n < 6 ? gradients : states).push_back(parts[n < 6 ? n : 6 + (n - 6) / 2 + (n % 2 ? 3 : 0)].data());
  std::vector<double> sums(4);
  call(Entries<T>::square_sums, set, 3, sizes.data(), gradients.data(), sums.data(), threads);
  const std::vector<double> numbers{0.1, 0.9, 0.5, 0.5, 0.5, 0.5, 0.1, 0.9};
  const std::vector<T*> first_states{states[0], states[2], states[4]};
  for (int64 rule = 0; rule < 3; ++rule)
    call(Entries<T>::update, set, rule, 3, sizes.data(), params.data(), gradients.data(),
                            (rule == 2 ? states : first_states).data(), numbers.data(), scale, threads);
  for (const auto& part : parts) table.insert(table.end(), part.begin(), part.end());
  table.insert(table.end(), sums.begin(), sums.end());
  table.insert(table.end(), losses.begin(), losses.end());
  return table;
}

template <typename T>
std::vector<T> activations(int64 set, int64 count) {
  auto x = random_numbers<T>(count, 1);
  std::vector<T> y(count), z(count);
  call(Entries<T>::activate, set, 0, count, x.data(), y.data());
  call(Entries<T>::activate, set, 1, count, x.data(), z.data());
  y.insert(y.end(), z.begin(), z.end());
  return y;
}

template <typename T>
std::vector<T> tokens(int64 set, int64 vocabulary, int64 embedding, int64 hidden, int64 layers, int64 threads) {
  auto table = random_numbers<T>(vocabulary * embedding, 1), head = random_numbers<T>(vocabulary * hidden, 2);
  auto head_bias = random_numbers<T>(vocabulary, 3);
  std::vector<std::vector<T>> parts[3];
  std::vector<const T*> weights[3];
  for (int64 layer = 0; layer < layers; ++layer) {
    const int64 sizes[] = {4 * hidden * (layer ? hidden : embedding), 4 * hidden * hidden, 4 * hidden};
    for (int part : {0, 1, 2}) {
      parts[part].push_back(random_numbers<T>(sizes[part], unsigned(10 * part + layer)));
      weights[part].push_back(parts[part].back().data());
    }
  }
  std::vector<T> state(3 * layers * hidden), scores(vocabulary);
  const std::vector<int64> given{0, vocabulary - 1};
  std::vector<int64> drawn(8);
  std::vector<double> uniforms(drawn.size(), 0.4);
  std::vector<unsigned char> never(vocabulary);
  never[0] = 1;
  int64 size = 0;
  std::vector<T> panels;
  auto generate = [&](int64 given_count, int64 count, T* to, int64* sized) {
    call(Entries<T>::generate, set, vocabulary, embedding, hidden, layers, table.data(), weights[0].data(),
                              weights[1].data(), weights[2].data(), head.data(), head_bias.data(), size, to,
                              state.data(), scores.data(), given_count, given.data(), count, 1.0, uniforms.data(),
                              never.data(), drawn.data(), sized, threads);
  };
  generate(0, 0, nullptr, &size);
  panels.resize(size);
  generate(0, 0, panels.data(), nullptr);
  generate(int64(given.size()), int64(drawn.size()), panels.data(), nullptr);
  return std::vector<T>(drawn.begin(), drawn.end());
}

double worst[2] = {};
std::FILE* records = nullptr;  // results of all checks in their order, in float64
bool recording = false;

// Within some thousand rounding errors.
template <typename T>
constexpr double kError = sizeof(T) == 4 ? 1e-4 : 1e-12;

// Writes results, or holds them to those that were written: NaN to NaN, others within `most`.
template <typename T>
void hold(const char* what, const std::vector<T>& results, double most) {
  std::vector<double> those(results.begin(), results.end());
  if (recording) {
    if (std::fwrite(those.data(), sizeof(double), those.size(), records) != those.size()) ++failures;
    return;
  }
  if (std::fread(those.data(), sizeof(double), those.size(), records) != those.size()) ++failures;
  for (std::size_t k = 0; k < those.size(); ++k) {
    const double error = std::fabs(results[k] - those[k]) / (1 + std::fabs(those[k]));
    worst[sizeof(T) == 4] = std::max(worst[sizeof(T) == 4], error);
    if (std::isnan(those[k]) ? !std::isnan(results[k]) : !(error <= most)) {
      if (++failures <= 10) std::printf("%s: %g instead of %g\n", what, double(results[k]), those[k]);
    }
  }
}

// `compute` gives the same on `threads` threads as on one, and from two callers at once.
template <typename T>
void check(const char* what, int64 threads, const std::function<std::vector<T>(int64 threads)>& compute,
           double most = kError<T>) {
  const auto expected = compute(1);
  if (records) hold(what, expected, most);
  if (recording) return;
  std::vector<T> from_other;
  std::thread other([&] { from_other = compute(threads); });
  const auto mine = compute(threads);
  other.join();
  if (mine != expected || from_other != expected) {
    if (++failures <= 10) std::printf("%s: another result on %d threads\n", what, int(threads));
  }
}

// Where the library's n-th allocation fails, for every n, `compute` says so or gives the same, and does afterwards. Each
// time in a process of its own, in which nothing is there yet; where processes can't fork, not at all.
template <typename T>
void check_failures(const char* what, [[maybe_unused]] const std::function<std::vector<T>(int64 threads)>& compute) {
#ifdef _WIN32
  std::printf("%s: not without fork\n", what);
#else
  for (int64 n = 0; ; ++n) {
    const pid_t child = fork();
    if (child == 0) {
      std::vector<T> under_failure;
      bool refused = false;
      fails_at = n;
      try {
        under_failure = compute(2);
      } catch (const NoMemory&) {
        refused = true;
      }
      fails_at = -1;
      const auto expected = compute(1);
      const bool right = compute(2) == expected && (refused || under_failure == expected);
      _exit(!right || failures ? 1 : failed ? 0 : 2);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2) return;  // it has no n-th
    if ((!WIFEXITED(status) || WEXITSTATUS(status) != 0) && ++failures <= 10)
      std::printf("%s: wrong after allocation %d failed\n", what, int(n));
    if (n > 100 && ++failures) return;
  }
#endif
}

template <typename T>
void check_all_failures(int64 set) {
  for (bool split_batch : {false, true}) {
    for (int64 count : {1, 2})
      check_failures<T>("recurrences", [&](int64 threads) {
        return recurrences<T>(set, count, 4, 8, 17, true, true, threads, split_batch);
      });
    check_failures<T>("family", [&](int64 threads) {
      return family<T>(set, 3, 8, 18, 10, 1, true, true, false, true, threads, split_batch);
    });
  }
  for (int64 rows : {7, 700})
    check_failures<T>("product", [&](int64 threads) { return product<T>(set, rows, 17, 300, false, threads); });
  check_failures<T>("layer", [&](int64 threads) { return layer<T>(set, 5, 9, 17, threads, false); });
  check_failures<T>("gradients", [&](int64 threads) { return gradients<T>(set, 300, 20, threads); });
  check_failures<T>("training", [&](int64 threads) { return training<T>(set, 9, 83, threads); });
  check_failures<T>("tokens", [&](int64 threads) { return tokens<T>(set, 19, 6, 40, 2, threads); });
}

#if HAS(0) || HAS(2) || HAS(4)
// The same with VNNI as without it.
void check_few_bits(int64 set) {
  for (bool vnni : {false, true})
    for (int64 bits : {8, 16})
      for (int64 hidden : {1, 17, 70})
        for (int64 batch : {1, 2, 8})
          for (int64 option = 0; option < 4; ++option)
            for (bool split_batch : {false, true})
              if (!vnni || (has_vnni(set) && !records))
                check<float>("few bits", 1 + batch % 3, [&](int64 threads) {
                  return few_bits(set, vnni && threads > 1, bits, batch, hidden / 2 + 3, hidden, option & 1, option & 2,
                                  split_batch && threads > batch ? batch : threads, split_batch);
                }, bits == 8 ? 1e-2 : kError<float>);  // h that is off by little may become another whole number
}

void check_failures_of_few_bits(int64 set) {
  check_failures<float>("few bits", [&](int64 threads) {
    return few_bits(set, false, 8, 5, 9, 17, true, true, threads, false);
  });
}
#else
void check_few_bits(int64) {}
void check_failures_of_few_bits(int64) {}
#endif

template <typename T>
void check_all(int64 set) {
  for (int64 count : {1, 2})
    for (int64 hidden : {1, 5, 17, 35})
      for (int64 batch : {1, 3, 8, 13})
        for (int64 option = 0; option < 4; ++option)
          for (bool split_batch : {false, true})
            check<T>("recurrences", 1 + batch % 3, [&](int64 threads) {
              return recurrences<T>(set, count, 4, batch, hidden, option & 1, option & 2,
                                    split_batch && threads > batch ? batch : threads, split_batch);
            });
  for (int64 hidden : {18, 74})
    for (int64 batch : {1, 8})
      for (bool project : {false, true})
        for (int64 option = batch % 5; option < 32; option += 5)  // every option on and off
          for (bool split_batch : {false, true})
            check<T>("family", 3, [&](int64 threads) {
              return family<T>(set, 3, batch, hidden, project ? hidden / 4 * 2 + 2 : 0, option & 1 ? 2 : 1,
                               option & 16, option & 2, option & 4, !(option & 8),
                               split_batch && threads > batch ? batch : threads, split_batch);
            });
  for (int64 hidden : {5, 35})
    for (int64 batch : {1, 3, 8})
      for (bool split_batch : {false, true})
        check<T>("layer", 1 + batch % 3, [&](int64 threads) {
          return layer<T>(set, batch, hidden / 2 + 3, hidden, split_batch && threads > batch ? batch : threads, split_batch);
        });
  for (bool transposed : {false, true})
    for (int64 rows : {1, 7, 70})
      for (int64 columns : {1, 17, 130})
        for (int64 depth : {1, 300}) {
          check<T>("product", 3, [&](int64 threads) {
            return product<T>(set, rows, columns, depth, transposed, threads);
          });
        }
  for (int64 rows : {1, 7, 300})
    for (int64 outputs : {1, 20, 120})
      check<T>("gradients", 3, [&](int64 threads) { return gradients<T>(set, rows, outputs, threads); });
  for (int64 vocabulary : {1, 5, 83})
    check<T>("training", 3, [&](int64 threads) { return training<T>(set, 9, vocabulary, threads); });
  for (int64 count : {1, 7, 33}) check<T>("activations", 1, [&](int64) { return activations<T>(set, count); });
  for (int64 hidden : {3, 40})
    check<T>("tokens", 2, [&](int64 threads) { return tokens<T>(set, 19, 6, hidden, 2, threads); });
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) { return allocate(size, std::size_t(alignment)); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept { give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { give_back(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { give_back(memory); }

template <typename T>
void check_sets() {
  for (int64 set = 0; set <= last_set(); ++set) {
    if (records) std::rewind(records);
    check_all<T>(set);
    if constexpr (std::is_same_v<T, float>) check_few_bits(set);
  }
}

int main(int count, char** arguments) {
  const std::string mode = count == 3 ? arguments[1] : "";
  recording = mode == "record";
  if constexpr (kFloats)
    for (int64 set = 0; mode.empty() && set <= last_set(); ++set) {  // before there are threads
      check_all_failures<float>(set);
      check_failures_of_few_bits(set);
    }
  if (!mode.empty() && !(records = std::fopen(arguments[2], recording ? "wb" : "rb"))) return EXIT_FAILURE;
  if constexpr (kDoubles) {
    if (recording) check_all<double>(0);
    else check_sets<double>();
  }
  if (recording) check_few_bits(0);
  if constexpr (kFloats)
    if (!recording) check_sets<float>();
  if (records && std::fclose(records)) ++failures;
  std::printf("%s %g %g\n", failures ? "FAILED" : "clean", worst[0], worst[1]);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
