// Where a thread of the gate kernels works, and the gates of its units in memory and in registers.

// Where a thread works: sequence b, units u..u+N-1.
template <int N>
struct Place {
  unsigned b, u;
  bool inside;

  __device__ Place(unsigned batch, unsigned hidden) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x, in_row = hidden / N;
    b = item / in_row;
    u = (item - b * in_row) * N;
    inside = b < batch;
  }
};

template <int N, typename S>
__device__ __forceinline__ Gates<Pack<S, N>> load_gates(const S* from, unsigned hidden) {
  return {load<N>(from), load<N>(from + hidden), load<N>(from + 2ll * hidden), load<N>(from + 3ll * hidden)};
}

template <int N, typename S>
__device__ __forceinline__ void store_gates(S* to, unsigned hidden, const Gates<Pack<S, N>>& gates) {
  store<N>(to, gates.i);
  store<N>(to + hidden, gates.f);
  store<N>(to + 2ll * hidden, gates.g);
  store<N>(to + 3ll * hidden, gates.o);
}

template <typename T, int N, typename S>
__device__ __forceinline__ Gates<T> unit(const Gates<Pack<S, N>>& gates, int k) {
  return {T(gates.i.at[k]), T(gates.f.at[k]), T(gates.g.at[k]), T(gates.o.at[k])};
}

template <typename T, int N, typename S>
__device__ __forceinline__ void set_unit(Gates<Pack<S, N>>& gates, int k, const Gates<T>& values) {
  gates.i.at[k] = S(values.i);
  gates.f.at[k] = S(values.f);
  gates.g.at[k] = S(values.g);
  gates.o.at[k] = S(values.o);
}
