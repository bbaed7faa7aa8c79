// Dropout, forward and backward alike: the mask is made again instead of being kept.

#include "common.cuh"
#include "philox.cuh"

// y = x * scale where the element's random word is at least `threshold`, else 0. Four elements share a counter, so the
// mask depends on key and element alone. N is 4 where x and y are aligned to four elements, else 1.
template <typename S, int N>
__global__ void dropout(const S* x, S* y, int64 count,
                        const unsigned* key,  // two words; null: the two that follow
                        unsigned key_low, unsigned key_high, unsigned threshold, Arithmetic<S> scale) {
  using T = Arithmetic<S>;
  if (key) key_low = key[0], key_high = key[1];
  const int64 step = int64(gridDim.x) * blockDim.x;
  for (int64 group = int64(blockIdx.x) * blockDim.x + threadIdx.x; group * 4 < count; group += step) {
    const Words random = philox({unsigned(group), unsigned(group >> 32), 0, 0}, key_low, key_high);
    const unsigned words[4] = {random.x, random.y, random.z, random.w};
    if (N == 4 && group * 4 + 4 <= count) {
      Pack<S, 4> values = load<4>(x + group * 4);
#pragma unroll
      for (int k = 0; k < 4; ++k) values.at[k] = words[k] >= threshold ? S(T(values.at[k]) * scale) : S(0.0f);
      store<4>(y + group * 4, values);
    } else {
      for (int k = 0; k < 4 && group * 4 + k < count; ++k)
        y[group * 4 + k] = words[k] >= threshold ? S(T(x[group * 4 + k]) * scale) : S(0.0f);
    }
  }
}
