// Calls every entry of the compiled CPU tier on small shapes, for a build with sanitizers (run.sh).
//
// All arrays are separate heap blocks of exactly the needed size, so that one element too far is seen. Every result
// must be the same, byte for byte, on 1 thread and on several, and from two callers at once.

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>

#include "../../kernels/cpu/lstm_cpu.cpp"

namespace {

int failures = 0;

template <typename T>
std::vector<T> random_numbers(long count, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> draw(-1, 1);
  std::vector<T> numbers(count);
  for (T& number : numbers) number = T(draw(generator));
  return numbers;
}

template <typename T>
struct Entries;
#define ENTRIES_OF(T, suffix)                                             \
  template <>                                                             \
  struct Entries<T> {                                                     \
    static constexpr auto forward = gpu_lstm_forward_##suffix;            \
    static constexpr auto backward = gpu_lstm_backward_##suffix;          \
    static constexpr auto multiply = gpu_lstm_multiply_##suffix;          \
    static constexpr auto cell_forward = gpu_lstm_cell_forward_##suffix;  \
    static constexpr auto cell_backward = gpu_lstm_cell_backward_##suffix; \
    static constexpr auto generate = gpu_lstm_generate_##suffix;          \
    static constexpr auto activate = gpu_lstm_activate_##suffix;          \
  };
ENTRIES_OF(float, f32)
ENTRIES_OF(double, f64)

// All results of forward and backward, one after the other.
template <typename T>
std::vector<T> recurrence(long set, long steps, long batch, long hidden, bool lengths, bool reverse, bool keep,
                          long threads, bool split_batch) {
  auto z = random_numbers<T>(steps * batch * 4 * hidden, 1), weight = random_numbers<T>(4 * hidden * hidden, 2);
  auto h = random_numbers<T>((steps + 1) * batch * hidden, 3);
  auto c = random_numbers<T>((keep ? steps + 1 : 1) * batch * hidden, 4);
  auto dy = random_numbers<T>(steps * batch * hidden, 5), dh = random_numbers<T>(batch * hidden, 6);
  auto dc = random_numbers<T>(batch * hidden, 7);
  std::vector<long> ends(batch);
  for (long b = 0; b < batch; ++b) ends[b] = 1 + (b * 5 + 2) % steps;
  const long* limits = lengths ? ends.data() : nullptr;
  Entries<T>::forward(set, steps, batch, hidden, z.data(), weight.data(), h.data(), c.data(), limits, reverse, keep,
                      threads, split_batch);
  std::vector<T> all(h);
  if (keep)
    Entries<T>::backward(set, steps, batch, hidden, z.data(), weight.data(), h.data(), c.data(), dy.data(), hidden,
                         dh.data(), dc.data(), limits, reverse, threads, split_batch);
  for (const auto* part : {&c, &z, &dh, &dc}) all.insert(all.end(), part->begin(), part->end());
  return all;
}

template <typename T>
std::vector<T> product(long set, long rows, long columns, long depth, bool transposed, long threads) {
  auto a = random_numbers<T>(rows * depth, 1), b = random_numbers<T>(depth * columns, 2);
  auto bias = random_numbers<T>(columns, 3);
  std::vector<T> c(rows * columns);
  const long a_row = transposed ? 1 : depth, a_column = transposed ? rows : 1;
  const long b_row = transposed ? 1 : columns, b_column = transposed ? depth : 1;
  Entries<T>::multiply(set, rows, columns, depth, a.data(), a_row, a_column, b.data(), b_row, b_column, c.data(),
                       bias.data(), threads);
  return c;
}

template <typename T>
std::vector<T> cells(long set, long batch, long hidden) {
  auto z = random_numbers<T>(batch * 4 * hidden, 1), before = random_numbers<T>(batch * hidden, 2);
  auto dh = random_numbers<T>(batch * hidden, 3), dc = random_numbers<T>(batch * hidden, 4);
  std::vector<T> c(batch * hidden), h(batch * hidden);
  Entries<T>::cell_forward(set, batch, hidden, z.data(), before.data(), c.data(), h.data());
  Entries<T>::cell_backward(set, batch, hidden, z.data(), before.data(), c.data(), dh.data(), dc.data());
  Entries<T>::activate(set, 0, long(dh.size()), dh.data(), h.data());
  Entries<T>::activate(set, 1, long(dc.size()), dc.data(), c.data());
  z.insert(z.end(), c.begin(), c.end());
  return z;
}

template <typename T>
std::vector<T> tokens(long set, long vocabulary, long embedding, long hidden, long layers, long threads) {
  auto table = random_numbers<T>(vocabulary * embedding, 1), head = random_numbers<T>(vocabulary * hidden, 2);
  auto head_bias = random_numbers<T>(vocabulary, 3);
  std::vector<std::vector<T>> parts;
  for (long layer = 0; layer < layers; ++layer) {
    parts.push_back(random_numbers<T>(4 * hidden * (layer ? hidden : embedding), unsigned(10 + layer)));
    parts.push_back(random_numbers<T>(4 * hidden * hidden, unsigned(20 + layer)));
    parts.push_back(random_numbers<T>(4 * hidden, unsigned(30 + layer)));
  }
  std::vector<const T*> weights;
  for (const auto& part : parts) weights.push_back(part.data());
  std::vector<T> state(3 * layers * hidden), scores(vocabulary);
  const std::vector<long> given{0, vocabulary - 1};
  std::vector<long> drawn(8);
  std::vector<double> uniforms(drawn.size(), 0.4);
  std::vector<unsigned char> never(vocabulary);
  never[0] = 1;
  const double temperature = 1;
  long size = 0;
  std::vector<T> panels;
  auto call = [&](long given_count, long count, T* to, long* sized) {
    Entries<T>::generate(set, vocabulary, embedding, hidden, layers, table.data(), weights.data(), head.data(),
                         head_bias.data(), to, state.data(), scores.data(), given.data(), given_count, count,
                         &temperature, uniforms.data(), never.data(), drawn.data(), sized, threads);
  };
  call(0, 0, nullptr, &size);
  panels.resize(size);
  call(0, 0, panels.data(), nullptr);
  call(long(given.size()), long(drawn.size()), panels.data(), nullptr);
  return std::vector<T>(drawn.begin(), drawn.end());
}

// `compute` gives the same on `threads` threads as on one, and from two callers at once.
template <typename T>
void check(const char* what, long threads, const std::function<std::vector<T>(long threads)>& compute) {
  const auto expected = compute(1);
  std::vector<T> from_other;
  std::thread other([&] { from_other = compute(threads); });
  const auto mine = compute(threads);
  other.join();
  if (mine != expected || from_other != expected) {
    if (++failures <= 10) std::printf("%s: another result on %ld threads\n", what, threads);
  }
}

template <typename T>
void check_all(long set) {
  for (long hidden : {1, 5, 17, 35})
    for (long batch : {1, 3, 8, 13})
      for (long option = 0; option < 8; ++option)
        for (bool split_batch : {false, true})
          check<T>("recurrence", 3, [&](long threads) {
            return recurrence<T>(set, 4, batch, hidden, option & 1, option & 2, !(option & 4),
                                 split_batch && threads > batch ? batch : threads, split_batch);
          });
  for (bool transposed : {false, true})
    for (long rows : {1, 7, 70})
      for (long columns : {1, 17, 130})
        for (long depth : {1, 300}) {
          check<T>("product", 3, [&](long threads) {
            return product<T>(set, rows, columns, depth, transposed, threads);
          });
        }
  for (long hidden : {1, 7, 33}) check<T>("cells", 1, [&](long) { return cells<T>(set, 3, hidden); });
  for (long hidden : {3, 40})
    check<T>("tokens", 2, [&](long threads) { return tokens<T>(set, 19, 6, hidden, 2, threads); });
}

}  // namespace

int main() {
  for (long set = 0; set <= gpu_lstm_best_set(); ++set) {
    check_all<float>(set);
    check_all<double>(set);
  }
  std::printf("%s\n", failures ? "FAILED" : "clean");
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
