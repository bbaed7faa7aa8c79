// The blocks that share one W_hh and hand each other h, or dz: one block, a cluster, or many blocks of the grid.
//
// At each step every block writes its part for all, arrives, and waits for the others before it reads theirs. `local`:
// the parts lie in the shared memory of each block, else in global memory. Nothing is waited for but blocks that run: a
// cluster is scheduled as a whole, and the grid is launched cooperatively, after the host has counted what is resident.

// How often a thread looks at memory that others write, and when it gives up, in debugging: after so many looks, all of
// its team stop waiting, and the host finds a 1 in arrived[1].
struct Patience {
#ifdef GPU_LSTM_WATCHDOG
  unsigned *arrived, looks = 0;

  __device__ explicit Patience(unsigned* arrived) : arrived(arrived) {}
  __device__ bool over() {
    if (++looks > GPU_LSTM_WATCHDOG) atomicExch(arrived + 1, 1u);
    return *static_cast<volatile unsigned*>(arrived + 1) != 0;
  }
#else
  __device__ explicit Patience(unsigned*) {}
  __device__ bool over() const { return false; }
#endif
};

// One block.
struct Alone {
  static constexpr bool local = true;

  __device__ Alone(unsigned*, unsigned) {}
  __device__ void arrive() {}
  __device__ void wait() { __syncthreads(); }
  template <typename S>
  __device__ void give(S* shared, S value, unsigned) const {
    *shared = value;
  }
};

// A cluster, by distributed shared memory (sm_90).
struct Cluster {
  static constexpr bool local = true;

  __device__ Cluster(unsigned*, unsigned) {}

  __device__ void arrive() {
#ifdef GPU_LSTM_EMULATOR
    emulator::cluster_arrive();
#elif __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
  }
  __device__ void wait() {
#ifdef GPU_LSTM_EMULATOR
    emulator::cluster_wait();
#elif __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
  }
  // To the same place in every block's shared memory.
  template <typename S>
  __device__ void give(S* shared, S value, unsigned members) const {
#pragma unroll 1
    for (unsigned rank = 0; rank < members; ++rank) *in_block(shared, rank) = value;
  }
  // The same variable in the shared memory of another block.
  template <typename S>
  static __device__ S* in_block(S* shared, unsigned rank) {
#ifdef GPU_LSTM_EMULATOR
    return emulator::map_shared(shared, rank);
#elif __CUDA_ARCH__ >= 900
    S* there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(shared), "r"(rank));
    return there;
#else
    return shared;
#endif
  }
};

// Blocks of a cooperative launch. `arrived` counts them in global memory: 0 at first, one such counter a team.
struct Grid {
  static constexpr bool local = false;
  static constexpr unsigned apart = 32;  // counters of neighbours: a cache line each
  unsigned *arrived, members, expected = 0;

  __device__ Grid(unsigned* counters, unsigned members)
      : arrived(counters + blockIdx.x / members * apart), members(members) {}

  __device__ void arrive() {
    __syncthreads();
    expected += members;
    if (threadIdx.x == 0) count();
  }
  __device__ void wait() {
    Patience patience(arrived);
    if (threadIdx.x == 0)
      while (int(seen() - expected) < 0 && !patience.over()) {
      }
    __syncthreads();
  }
  template <typename S>
  __device__ void give(S*, S, unsigned) const {}

 private:
#ifdef GPU_LSTM_EMULATOR
  __device__ void count() const { emulator::add_acquire_release(arrived, 1u); }
  __device__ unsigned seen() const { return emulator::load_acquire(arrived); }
#else
  __device__ void count() const {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
  }
  __device__ unsigned seen() const {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(arrived) : "memory");
    return value;
  }
#endif
};
