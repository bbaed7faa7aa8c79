// The blocks that share one W_hh and hand each other h, or dz: one block, a cluster, or many blocks of the grid.
//
// `local`: the parts lie in the shared memory of each block, where a block gives its part to all; else in global memory.
// Numbers from other blocks say themselves whether they are there, so that no step has a barrier but that of a block.
// Nothing is waited for but blocks that run: a cluster is scheduled as a whole, and the grid is launched cooperatively,
// after the host has counted what is resident. `joint`: the blocks of a cluster multiply together, each by a part of k.
// `conceals`: buffers in shared memory are set to missing before others write to them.

// How often a thread looks at memory that others write. In debugging it gives up after so many looks, and so do all of
// its team; the host finds a 1 in gave_up.
struct Patience {
#ifdef GPU_LSTM_WATCHDOG
  unsigned *gave_up, looks = 0;

  __device__ explicit Patience(unsigned* gave_up) : gave_up(gave_up) {}
  __device__ bool over() {
    if (++looks > GPU_LSTM_WATCHDOG) atomicExch(gave_up, 1u);
    return *static_cast<volatile unsigned*>(gave_up) != 0;
  }
#else
  __device__ explicit Patience(unsigned*) {}
  __device__ bool over() const { return false; }
#endif
};

// Memory that others read or write at the same time: whole elements, in no order with anything else.

template <int Bytes>
struct BitsOf;
template <>
struct BitsOf<2> {
  using type = unsigned short;
};
template <>
struct BitsOf<4> {
  using type = unsigned;
};
template <>
struct BitsOf<8> {
  using type = unsigned long long;
};
template <typename S>
using Bits = typename BitsOf<sizeof(S)>::type;

// A number that is not there yet: all bits set, a NaN that no arithmetic gives.
template <typename S>
__device__ __forceinline__ bool is_missing(const S& value) {
  return reinterpret_cast<const Bits<S>&>(value) == Bits<S>(~0ull);
}

// Its bits; another NaN for one of these, which was handed in from outside.
template <typename S>
__device__ __forceinline__ Bits<S> present(const S& value) {
  return reinterpret_cast<const Bits<S>&>(value) - Bits<S>(is_missing(value));
}

// Where it is: memory of the device, or shared memory of a block of the cluster.
enum class Memory { device, cluster };

#define STORE_BITS(where)                                                                                       \
  if constexpr (sizeof(S) == 2) asm volatile("st.relaxed." where ".u16 [%0], %1;" ::"l"(to), "h"(bits) : "memory"); \
  if constexpr (sizeof(S) == 4) asm volatile("st.relaxed." where ".u32 [%0], %1;" ::"l"(to), "r"(bits) : "memory"); \
  if constexpr (sizeof(S) == 8) asm volatile("st.relaxed." where ".u64 [%0], %1;" ::"l"(to), "l"(bits) : "memory")

template <Memory In = Memory::device, typename S>
__device__ __forceinline__ void publish(S* to, S value) {
  const Bits<S> bits = present(value);
#if __CUDA_ARCH__ >= 900
  if constexpr (In == Memory::cluster) {
    STORE_BITS("cluster");
  } else {
    STORE_BITS("gpu.global");
  }
#else
  STORE_BITS("gpu.global");
#endif
}
#undef STORE_BITS

// One number, or as many as fill 16 bytes.
template <typename S, int N>
__device__ __forceinline__ Pack<S, N> look(const S* from) {
  Pack<S, N> values;
  if constexpr (N > 1) {
    unsigned long long* const words = reinterpret_cast<unsigned long long*>(&values);
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];  // by elements"
                 : "=l"(words[0]), "=l"(words[1])
                 : "l"(from)
                 : "memory");
  } else {
    Bits<S>& bits = reinterpret_cast<Bits<S>&>(values);
    if constexpr (sizeof(S) == 2) asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(bits) : "l"(from) : "memory");
    if constexpr (sizeof(S) == 4) asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(bits) : "l"(from) : "memory");
    if constexpr (sizeof(S) == 8) asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(bits) : "l"(from) : "memory");
  }
  return values;
}

// 16 bytes of the own shared memory, which the cluster writes to.
template <typename S>
__device__ __forceinline__ Pack<S, 16 / sizeof(S)> look_at_own(const S* from) {
  Pack<S, 16 / sizeof(S)> values;
#if __CUDA_ARCH__ >= 900
  unsigned long long* const words = reinterpret_cast<unsigned long long*>(&values);
  asm volatile("ld.relaxed.cluster.shared::cta.v2.u64 {%0, %1}, [%2];  // by elements"
               : "=l"(words[0]), "=l"(words[1])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(from)))
               : "memory");
#endif
  return values;
}

// Numbers from k on are missing there, as many of 16 bytes as a row has; zeros follow.
template <typename S>
__device__ __forceinline__ void conceal(S* row, unsigned k, unsigned depth) {
  constexpr int V = 16 / sizeof(S);
  Pack<S, V> values;
#pragma unroll
  for (int v = 0; v < V; ++v) reinterpret_cast<Bits<S>&>(values.at[v]) = k + v < depth ? Bits<S>(~0ull) : Bits<S>(0);
#if __CUDA_ARCH__ >= 900
  const unsigned long long* const words = reinterpret_cast<const unsigned long long*>(&values);
  asm volatile("st.relaxed.cluster.shared::cta.v2.u64 [%0], {%1, %2};  // by elements" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(row + k))),
               "l"(words[0]), "l"(words[1])
               : "memory");
#endif
}

template <typename S, int N>
__device__ __forceinline__ bool is_missing(const Pack<S, N>& values) {
  bool missing = false;
#pragma unroll
  for (int n = 0; n < N; ++n) missing = missing || is_missing(values.at[n]);
  return missing;
}

// The number, once it is there.
template <typename S>
__device__ __forceinline__ S await(const S* from, Patience patience) {
  for (;;) {
    const S value = look<S, 1>(from).at[0];
    if (!is_missing(value) || patience.over()) return value;
  }
}

// Asks again until all lanes of a warp have theirs: together and without a branch of some, so that the compiler knows that
// they stay together.
template <typename Values, typename Ask>
__device__ __forceinline__ void await_all(Values& values, Patience patience, const Ask& ask) {
  while (__any_sync(~0u, is_missing(values)) && !__any_sync(~0u, patience.over())) {
    const Values now = ask();
    const bool missing = is_missing(values);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      unsigned& word = reinterpret_cast<unsigned*>(&values)[w];
      word = missing ? reinterpret_cast<const unsigned*>(&now)[w] : word;
    }
  }
}

// One block: its threads wait for each other.
struct Alone {
  static constexpr bool local = true, joint = false, conceals = false;

  __device__ Alone(unsigned*, unsigned) {}
  __device__ void meet() { __syncthreads(); }
  template <typename S>
  __device__ void give(S* shared, S value, unsigned) const {
    *shared = value;
  }
  __device__ Patience patience() const { return Patience(nullptr); }
};

// A cluster, by distributed shared memory (sm_90). A buffer is concealed before it is written to again. With three of them
// there is time for that until a block gives its part of the step after the next, without which none gets to the third;
// with two it has to be before it gives that of the next.
struct Cluster {
  static constexpr bool local = true, joint = false, conceals = true;
  unsigned* gave_up;

  __device__ Cluster(unsigned* gave_up, unsigned members) : gave_up(gave_up + blockIdx.x / members) {}
  __device__ Patience patience() const { return Patience(gave_up); }

  // Released: what this thread has written is there for who has waited, at the price of a fence of the whole device.
  template <bool Released = true>
  static __device__ void arrive() {
#if __CUDA_ARCH__ >= 900
    if constexpr (Released)
      asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    else
      asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
  }
  static __device__ void wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
  }
  static __device__ void meet() { arrive(), wait(); }
  // To the same place in every block's shared memory.
  template <typename S>
  __device__ void give(S* shared, S value, unsigned members) const {
#pragma unroll 1
    for (unsigned rank = 0; rank < members; ++rank) publish<Memory::cluster>(in_block(shared, rank), value);
  }
  // The same variable in the shared memory of another block.
  template <typename S>
  static __device__ S* in_block(S* shared, unsigned rank) {
#if __CUDA_ARCH__ >= 900
    S* there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(shared), "r"(rank));
    return there;
#else
    return shared;
#endif
  }
};

// Blocks of a cooperative launch. Numbers in global memory say themselves whether they are there: no barrier.
struct Grid {
  static constexpr bool local = false, joint = false, conceals = false;
  unsigned* gave_up;

  __device__ Grid(unsigned* gave_up, unsigned members) : gave_up(gave_up + blockIdx.x / members) {}
  template <typename S>
  __device__ void give(S*, S, unsigned) const {}
  __device__ Patience patience() const { return Patience(gave_up); }
};

// The same in clusters (sm_90), which share k: see joint.cuh. `members` is a multiple of their size.
struct JointGrid : Grid {
  static constexpr bool joint = true;
  static constexpr unsigned blocks = 8;  // of a cluster

  using Grid::Grid;
  static __device__ unsigned rank() { return blockIdx.x % blocks; }
  static __device__ void arrive() { Cluster::arrive(); }
  // Of a thread whose reads of what others write to after the barrier are over, as their values say; it hands nothing on.
  static __device__ void arrive_after(bool read) {
#ifdef GPU_LSTM_RELEASED
    Cluster::arrive();
#else
    if (!read) __trap();  // never: but an arrival that follows from what was read can't come before it
    Cluster::arrive<false>();
#endif
  }
  static __device__ void wait() { Cluster::wait(); }
};
