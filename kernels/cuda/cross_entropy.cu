// Softmax cross-entropy, forward and backward: the gradient takes the place of the logits.

#include "common.cuh"

// How many targets count; one block. The order doesn't matter: these are whole numbers.
__global__ void count_targets(const int64* targets, int64 rows, int64 ignore, int64* number) {
  int64 mine = 0;
  for (int64 row = threadIdx.x; row < rows; row += blockDim.x) mine += targets[row] != ignore;
  const int64 all = over_block<Sum>(mine);
  if (threadIdx.x == 0) *number = all;
}

// One block a row: loss = log(sum of e^x) - x[target] and its gradient over the mean. A target that doesn't count, or is
// out of range (require_range reports it), has loss and gradient 0.
template <typename S>
__global__ void cross_entropy(S* logits,               // (rows, vocabulary), becomes the gradient
                              const int64* targets,    // (rows,)
                              Arithmetic<S>* losses,   // (rows,)
                              const int64* number,     // how many targets count; null: all
                              int ignores, int64 ignore, int64 rows, int64 vocabulary) {
  using T = Arithmetic<S>;
  const int64 row = blockIdx.x, target = targets[row];
  S* const x = logits + row * vocabulary;
  if (target < 0 || target >= vocabulary || (ignores && target == ignore)) {
    for (int64 k = threadIdx.x; k < vocabulary; k += blockDim.x) x[k] = S(0.0f);
    if (threadIdx.x == 0) losses[row] = T(0);
    return;
  }
  T largest = T(x[0]);
  for (int64 k = threadIdx.x; k < vocabulary; k += blockDim.x) largest = Maximum<T>::of(T(x[k]), largest);
  largest = over_block<Maximum>(largest);
  T total = T(0);
  for (int64 k = threadIdx.x; k < vocabulary; k += blockDim.x) total += exponential(T(x[k]) - largest);
  total = over_block<Sum>(total);
  if (threadIdx.x == 0) losses[row] = logarithm(total) - (T(x[target]) - largest);
  __syncthreads();  // x[target] is read before it is overwritten
  const T share = T(1) / T(number ? *number : rows), scale = share / total;
  for (int64 k = threadIdx.x; k < vocabulary; k += blockDim.x)
    x[k] = S(exponential(T(x[k]) - largest) * scale - (k == target ? share : T(0)));
}

// The mean over the targets that count, in a fixed order; one block. 0 where none does.
template <typename T>
__global__ void mean_loss(const T* losses, const int64* number, int64 rows, T* mean) {
  T mine = T(0);
  for (int64 row = threadIdx.x; row < rows; row += blockDim.x) mine += losses[row];
  const T total = over_block<Sum>(mine);
  const int64 counts = number ? *number : rows;
  if (threadIdx.x == 0) *mean = total / T(counts > 0 ? counts : 1);
}
