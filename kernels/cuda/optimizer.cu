// One step of an optimizer over all parameters in one launch, and the norm of all gradients.
//
// A table has one line for each parameter; a block takes one chunk of `chunk` elements of one of them.

#include "common.cuh"

constexpr int64 chunk = 4096;

template <typename G>
struct Line {
  Arithmetic<G>* param;
  const G* gradient;
  Arithmetic<G>* state[2];
  int64 size;
  int64 first_chunk;  // chunks of all lines before
};

// The line that a chunk belongs to: the last one that starts at or before it.
template <typename G>
__device__ const Line<G>& line_of(const Line<G>* table, int lines, int64 number) {
  int low = 0, high = lines - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table[middle].first_chunk <= number)
      low = middle;
    else
      high = middle - 1;
  }
  return table[low];
}

// The sum of squares of each chunk of gradients, in a fixed order.
template <typename G>
__global__ void sum_of_squares(const Line<G>* table, int lines, Arithmetic<G>* sums) {
  using T = Arithmetic<G>;
  const Line<G>& line = line_of(table, lines, blockIdx.x);
  const int64 first = (blockIdx.x - line.first_chunk) * chunk;
  const int64 end = first + chunk < line.size ? first + chunk : line.size;
  T sum = T(0);
  for (int64 k = first + threadIdx.x; k < end; k += blockDim.x) sum += T(line.gradient[k]) * T(line.gradient[k]);
  sum = over_block<Sum>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// The root of their sum, in a fixed order, times `unscale`, which takes the scale of the loss out again; one block.
template <typename T>
__global__ void norm_of_sums(const T* sums, int64 count, T unscale, T* norm) {
  T sum = T(0);
  for (int64 k = threadIdx.x; k < count; k += blockDim.x) sum += sums[k];
  sum = over_block<Sum>(sum);
  if (threadIdx.x == 0) *norm = square_root(sum) * unscale;
}

// The rules, as gpu_lstm/optimizers has them, from its `numbers`.
template <typename T>
struct sgd {
  static constexpr int states = 1;
  T rate, momentum;
  __device__ explicit sgd(const double* numbers) : rate(T(numbers[0])), momentum(T(numbers[1])) {}
  __device__ void move(T& param, T gradient, T (&state)[2]) const {
    state[0] = momentum * state[0] + gradient;
    param -= rate * state[0];
  }
};

template <typename T>
struct rmsprop {
  static constexpr int states = 1;
  T rate, decay, rest, eps;
  __device__ explicit rmsprop(const double* numbers)
      : rate(T(numbers[0])), decay(T(numbers[1])), rest(T(numbers[2])), eps(T(numbers[3])) {}
  __device__ void move(T& param, T gradient, T (&state)[2]) const {
    state[0] = decay * state[0] + rest * gradient * gradient;
    param -= rate * gradient / (square_root(state[0]) + eps);
  }
};

template <typename T>
struct adam {
  static constexpr int states = 2;
  T step_size, root, beta1, rest1, beta2, rest2, eps, shrink;
  __device__ explicit adam(const double* numbers)
      : step_size(T(numbers[0])), root(T(numbers[1])), beta1(T(numbers[2])), rest1(T(numbers[3])),
        beta2(T(numbers[4])), rest2(T(numbers[5])), eps(T(numbers[6])), shrink(T(numbers[7])) {}
  __device__ void move(T& param, T gradient, T (&state)[2]) const {
    state[0] = beta1 * state[0] + rest1 * gradient;
    state[1] = beta2 * state[1] + rest2 * gradient * gradient;
    param = param * shrink - step_size * (state[0] / (square_root(state[1]) / root + eps));
  }
};

// Gradients are multiplied by `unscale`, and by max_norm / norm where the norm is larger. Nothing moves where norm or
// loss isn't finite.
template <typename G, template <typename> class Rule>
__global__ void update(const Line<G>* table, int lines, const double* numbers,
                       const Arithmetic<G>* norm,  // null: no clipping
                       Arithmetic<G> max_norm, Arithmetic<G> unscale,
                       const Arithmetic<G>* loss) {  // may be null
  using T = Arithmetic<G>;
  if ((norm && !is_finite(*norm)) || (loss && !is_finite(*loss))) return;
  const T scale = norm && *norm > max_norm ? max_norm / *norm * unscale : unscale;
  const Rule<T> rule(numbers);
  const Line<G>& line = line_of(table, lines, blockIdx.x);
  const int64 first = (blockIdx.x - line.first_chunk) * chunk;
  const int64 end = first + chunk < line.size ? first + chunk : line.size;
  for (int64 k = first + threadIdx.x; k < end; k += blockDim.x) {
    T param = line.param[k], state[2];
    for (int s = 0; s < Rule<T>::states; ++s) state[s] = line.state[s][k];
    rule.move(param, T(line.gradient[k]) * scale, state);
    line.param[k] = param;
    for (int s = 0; s < Rule<T>::states; ++s) line.state[s][k] = state[s];
  }
}
