// What the kernels share: types, 16-byte accesses, mathematics by type, sums over a block.
//
// The loader (gpu_lstm/native/sources.py) inlines headers and puts cuda_fp16.h or cuda_bf16.h in front where a
// kernel's storage type needs it.

using int64 = long long;

// S is the type in memory; all arithmetic is in float, or in double for double.
template <typename S>
struct ArithmeticOf {
  using T = float;
};
template <>
struct ArithmeticOf<double> {
  using T = double;
};
template <typename S>
using Arithmetic = typename ArithmeticOf<S>::T;

// N neighbours in memory, moved in accesses of up to 16 bytes. Their address must be a multiple of that.
template <typename S, int N>
struct alignas(N * sizeof(S) < 16 ? N * sizeof(S) : 16) Pack {
  S at[N];
};

template <int N, typename S>
__device__ __forceinline__ Pack<S, N> load(const S* from) {
  return *reinterpret_cast<const Pack<S, N>*>(from);
}

template <int N, typename S>
__device__ __forceinline__ void store(S* to, const Pack<S, N>& values) {
  *reinterpret_cast<Pack<S, N>*>(to) = values;
}

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float square_root(float x) { return sqrtf(x); }
__device__ __forceinline__ double square_root(double x) { return sqrt(x); }

// Neither infinite nor NaN.
template <typename T>
__device__ __forceinline__ bool is_finite(T x) {
  return x - x == T(0);
}

template <typename T>
struct Sum {
  static __device__ __forceinline__ T of(T a, T b) { return a + b; }
};

template <typename T>
struct Maximum {
  static __device__ __forceinline__ T of(T a, T b) { return a > b ? a : b; }
};

// Combines one value a thread over a block of whole warps, in a fixed order; every thread gets the result.
template <template <typename> class Operation, typename T>
__device__ T over_block(T value) {
  __shared__ T parts[32];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int apart = 16; apart > 0; apart /= 2) value = Operation<T>::of(value, __shfl_xor_sync(~0u, value, apart));
  __syncthreads();  // the call before may still be reading
  if (lane == 0) parts[warp] = value;
  __syncthreads();
  value = parts[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) value = Operation<T>::of(value, parts[w]);
  return value;
}
