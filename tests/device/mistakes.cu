// Small kernels, each with the mistakes that can be made in it. `none` is the right one.

enum Mistake {
  none,
  no_barrier_before,
  no_barrier_after,
  no_fence,
  no_fence_of_reader,
  fence_of_block_only,
  plain_flag,
  not_atomic,
  past_the_end,
  before_the_start,
  not_written,
  barrier_in_branch,
  barriers_in_both_branches,
  return_before_barrier,
  target_early,
  target_late,
  no_grid_barrier,
  no_syncwarp,
  mask_without_self,
  mask_too_small,
  mask_too_large,
  masks_overlap,
  different_operations,
  no_barrier_at_start,
  no_barrier_at_end,
  relaxed_arrival,
  arrives_twice,
  waits_without_arrival,
  used_late,
  no_wait,
  wrong_parity,
  too_many_arrivals,
  wrong_bytes,
  other_size,
  weak_store,
  relaxed_flag,
};

// ---- one block

// Twice: every thread shows its number to its neighbour. x (blockDim)
template <Mistake M>
__global__ void neighbours(float* x) {
  __shared__ float shown[128];
  const int i = threadIdx.x, n = blockDim.x;
  float v = x[i];
  for (int round = 0; round < 2; ++round) {
    shown[i] = v;
    if (M != no_barrier_before) __syncthreads();
    v = shown[(i + 1) % n];
    if (M != no_barrier_after) __syncthreads();
  }
  x[i] = v;
}

// y[i] = x[n - 1 - i] by way of shared memory
template <Mistake M>
__global__ void reverse(const float* x, float* y) {
  extern __shared__ float memory[];
  const int i = threadIdx.x, n = blockDim.x;
  if (!(M == not_written && i == 3)) memory[M == past_the_end ? i + 1 : i] = x[i];
  __syncthreads();
  y[i] = memory[n - 1 - i];
}

// y = 2 x, of global memory
template <Mistake M>
__global__ void twice(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (M == past_the_end ? i <= n : i < n) y[i] = 2.0f * x[M == before_the_start ? i - 1 : i];
}

// total = sum of x (a multiple of the block), one number for each block
template <Mistake M>
__global__ void sum(const float* x, float* total) {
  __shared__ float parts[4];
  float v = x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int distance = 16; distance; distance /= 2) v += __shfl_down_sync(0xffffffffu, v, distance);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  if (M == barrier_in_branch) {
    if (threadIdx.x % 32 == 0) __syncthreads();
  } else if (M == barriers_in_both_branches) {
    if (threadIdx.x < 32) {
      __syncthreads();
      parts[threadIdx.x / 32] += 0.0f;  // or else both become one, and nothing is wrong
    } else {
      __syncthreads();
    }
  } else {
    if (M == return_before_barrier && threadIdx.x == blockDim.x - 1) return;
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    float all = 0.0f;
    for (int w = 0; w < blockDim.x / 32; ++w) all += parts[w];
    if (M == not_atomic)
      *total += all;
    else
      atomicAdd(total, all);
  }
}

// ---- warps

// x reversed within each warp, by way of shared memory
template <Mistake M>
__global__ void reverse_warps(float* x) {
  __shared__ float memory[64];
  const int i = threadIdx.x;
  memory[i] = x[i];
  if (M != no_syncwarp) __syncwarp();
  x[i] = memory[i ^ 31];
}

// x (32): the lower 16 lanes all get lane 3's number, the upper ones lane 20's
template <Mistake M>
__global__ void spread(float* x) {
  const int lane = threadIdx.x;
  unsigned mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  int from = lane < 16 ? 3 : 20;
  if (M == mask_without_self) mask = ~mask;
  if (M == mask_too_small) mask = lane < 16 ? 0x0000fff7u | 1u << lane : mask, from = 3;
  if (M == mask_too_large && lane < 16) mask = 0xffffffffu;
  if (M == masks_overlap && lane < 8) mask = 0x000000ffu;
  if (M == mask_too_large && lane >= 16) return;
  if (M == different_operations && lane % 2) {
    __syncwarp(mask);
    return;
  }
  x[lane] = __shfl_sync(mask, x[lane], M == mask_too_large ? 20 : from);
}

// ---- several blocks at the same time

__device__ unsigned load_acquire(unsigned* p) {
  unsigned v;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ unsigned load_relaxed(unsigned* p) {
  unsigned v;
  asm volatile("ld.relaxed.gpu.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ void store_release(unsigned* p, unsigned v) {
  asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ void store_relaxed(unsigned* p, unsigned v) {
  asm volatile("st.relaxed.gpu.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

// Block 0 writes data and then a flag, block 1 waits for the flag and reads. data (blockDim), seen (blockDim)
template <Mistake M>
__global__ void message(const float* x, float* data, unsigned* flag, float* seen) {
  const int i = threadIdx.x;
  if (blockIdx.x == 0) {
    data[i] = x[i];
    __syncthreads();
    if (i == 0) {
      if (M == fence_of_block_only)
        __threadfence_block();
      else if (M != no_fence)
        __threadfence();
      if (M == plain_flag)
        *flag = 1;
      else
        atomicExch(flag, 1u);
    }
  } else {
    if (i == 0) {
      while (*(volatile unsigned*)flag == 0) {
      }
      if (M != no_fence_of_reader) __threadfence();
    }
    __syncthreads();
    seen[i] = data[i];
  }
}

// By release and acquire, handed on by block 1 to block 2: flag (2).
template <Mistake M>
__global__ void message_by_order(const float* x, float* data, unsigned* flag, float* seen) {
  const int i = threadIdx.x;
  if (blockIdx.x == 0) {
    data[i] = x[i];
    __syncthreads();
    if (i == 0) M == no_fence ? store_relaxed(flag, 1u) : store_release(flag, 1u);
  } else if (blockIdx.x == 1) {
    if (i) return;
    while ((M == no_fence_of_reader ? load_relaxed(flag) : load_acquire(flag)) == 0) {
    }
    M == relaxed_flag ? store_relaxed(flag + 1, 1u) : store_release(flag + 1, 1u);
  } else {
    if (i == 0)
      while (load_acquire(flag + 1) == 0) {
      }
    __syncthreads();
    seen[i] = data[i];
  }
}

// No access is weak, so that nothing is a race: what is read may be old. x and data of whole numbers.
template <Mistake M>
__global__ void strong_message(const unsigned* x, unsigned* data, unsigned* flag, unsigned* seen) {
  const int i = threadIdx.x;
  if (blockIdx.x == 0) {
    store_relaxed(data + i, x[i]);
    __syncthreads();
    if (i == 0) M == relaxed_flag ? store_relaxed(flag, 1u) : store_release(flag, 1u);
  } else {
    if (i == 0)
      while ((M == no_fence_of_reader ? load_relaxed(flag) : load_acquire(flag)) == 0) {
      }
    __syncthreads();
    seen[i] = load_relaxed(data + i);
  }
}

// Each of two blocks says that it is there, and looks whether the other is: one at least sees the other. said (2)
template <Mistake M>
__global__ void one_sees(unsigned* said, unsigned* saw) {
  store_relaxed(said + blockIdx.x, 1u);
  if (M == fence_of_block_only)
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
  else
    __threadfence();
  saw[blockIdx.x] = load_relaxed(said + 1 - blockIdx.x);
}

// Numbers that say themselves whether they are there: two of 16 bits are looked at together. data: all bits set
template <Mistake M>
__global__ void numbers(const unsigned short* x, unsigned short* data, unsigned short* seen) {
  const int i = threadIdx.x;
  if (blockIdx.x == 0) {
    if (M == weak_store)
      data[i] = x[i];
    else
      asm volatile("st.relaxed.gpu.u16 [%0], %1;" ::"l"(data + i), "h"(x[i]) : "memory");
    return;
  }
  unsigned two;
  do {
    if (M == other_size)
      asm volatile("ld.relaxed.gpu.u32 %0, [%1];" : "=r"(two) : "l"(data + i / 2 * 2) : "memory");
    else
      asm volatile("ld.relaxed.gpu.u32 %0, [%1];  // by elements" : "=r"(two) : "l"(data + i / 2 * 2) : "memory");
  } while ((two & 0xffff) == 0xffff || two >> 16 == 0xffff);
  seen[i] = i % 2 ? two >> 16 : two & 0xffff;
}

__device__ void grid_barrier(unsigned* arrived, unsigned target) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrived, 1u);
    while (*(volatile unsigned*)arrived < target) {
    }
    __threadfence();
  }
  __syncthreads();
}

// `steps` times: x moves on by one place, over all blocks. x (blocks * blockDim), arrived (1), zero
template <Mistake M>
__global__ void rotate(float* x, unsigned* arrived, int steps) {
  const int n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
  for (int step = 0; step < steps; ++step) {
    const float v = __ldcg(x + (i + 1) % n);
    const unsigned wrong = M == target_early ? -1u : M == target_late ? 1u : 0u;
    if (M != no_grid_barrier) grid_barrier(arrived, (2 * step + 1) * gridDim.x + wrong);
    x[i] = v;
    if (M != no_grid_barrier) grid_barrier(arrived, (2 * step + 2) * gridDim.x + wrong);
  }
}

// ---- clusters of 4 blocks

__device__ unsigned cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
template <bool Releases = true>
__device__ void cluster_arrive() {
  if (Releases)
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  else
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ void cluster_barrier() { cluster_arrive(), cluster_wait(); }
template <typename T>
__device__ T* map_shared(T* own, unsigned rank) {
  T* there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(own), "r"(rank));
  return there;
}

// x moves on through the shared memory of the next block. x (blocks * blockDim)
template <Mistake M>
__global__ void __cluster_dims__(4, 1, 1) rotate_cluster(float* x, int steps) {
  __shared__ float mine[2][32];
  const int i = threadIdx.x, at = blockIdx.x * blockDim.x + i;
  const unsigned next = (cluster_rank() + 1) % 4;
  float v = x[at];
  if (M != no_barrier_at_start) cluster_barrier();
  for (int step = 0; step < steps; ++step) {
    map_shared(&mine[step % 2][i], next)[0] = v;
    if (M == no_barrier_before) {
      __syncthreads();
    } else if (M == relaxed_arrival) {
      cluster_arrive<false>();
      cluster_wait();
    } else {
      if (M != waits_without_arrival) cluster_arrive();
      if (M == arrives_twice) cluster_arrive();
      cluster_wait();
    }
    v = mine[step % 2][i];
  }
  x[at] = v;
  if (M != no_barrier_at_end) cluster_barrier();
  if (M == no_barrier_at_end) *map_shared(&mine[steps % 2][i], next) = v;
}

// ---- mbarriers

__device__ unsigned window(const void* shared) { return unsigned(__cvta_generic_to_shared(shared)); }
__device__ unsigned window_of(const void* shared, unsigned rank) {
  unsigned there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(window(shared)), "r"(rank));
  return there;
}
__device__ void mbarrier_init(unsigned long long* b, unsigned count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(window(b)), "r"(count) : "memory");
}
__device__ void mbarrier_arrive(unsigned long long* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(window(b)) : "memory");
}
__device__ void mbarrier_expect(unsigned long long* b, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(window(b)), "r"(bytes) : "memory");
}
__device__ void mbarrier_wait(unsigned long long* b, unsigned parity) {
  unsigned done;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(window(b)), "r"(parity)
        : "memory");
  } while (!done);
}
__device__ void send(const float* to, float v, const unsigned long long* b, unsigned rank) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %1, %1, %1}, [%2];" ::"r"(
          window_of(to, rank)),
      "r"(__float_as_uint(v)), "r"(window_of(b, rank))
      : "memory");
}

// Blocks of a cluster: in each step every block sends its number to all others, and adds up what it got; it sends again
// when all have read, of which the barrier has to tell nothing but that. x (blocks), steps
template <Mistake M>
__global__ void __cluster_dims__(4, 1, 1) all_to_all(float* x, int steps) {
  __shared__ __align__(16) float box[4][4];
  __shared__ unsigned long long full;
  const unsigned rank = cluster_rank();
  if (threadIdx.x == 0) mbarrier_init(&full, 1);
  if (M == no_barrier_at_start)
    __syncthreads();
  else
    cluster_barrier();
  float v = x[blockIdx.x];
  for (int step = 0; step < steps; ++step) {
    if (threadIdx.x == 0) {
      mbarrier_expect(&full, M == wrong_bytes ? 80 : 64);
      if (M == too_many_arrivals) mbarrier_arrive(&full), mbarrier_arrive(&full);
    }
    if (threadIdx.x < 4) send(box[rank], v, &full, threadIdx.x % 4);
    if (M != no_wait) mbarrier_wait(&full, (M == wrong_parity ? step + 1 : step) % 2);
    float one[4];
    for (int r = 0; r < 4; ++r) one[r] = *(volatile float*)box[r];
    if (M == used_late) cluster_arrive<false>();
    v = 0.0f;
    for (int r = 0; r < 4; ++r) v += (r + 1) * one[r] / 64;
    asm volatile("" : "+f"(v));  // computed before what follows
    if (M != used_late && M != no_barrier_after) cluster_arrive<false>();
    if (M != no_barrier_after) cluster_wait();
  }
  if (threadIdx.x == 0) x[blockIdx.x] = v;
  cluster_barrier();
}

// A block's own producer and consumer: the first warp fills, the second empties, by two mbarriers.
template <Mistake M>
__global__ void producer_consumer(const float* x, float* y, int count) {
  __shared__ float box[32];
  __shared__ unsigned long long full, empty;
  const int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) mbarrier_init(&full, 32), mbarrier_init(&empty, 32);
  if (M != no_barrier_before) __syncthreads();
  for (int k = 0; k < count; ++k) {
    if (threadIdx.x < 32) {
      if (k > 0 && M != no_wait) mbarrier_wait(&empty, (k - 1) % 2);
      box[lane] = x[32 * k + lane];
      mbarrier_arrive(&full);
    } else {
      mbarrier_wait(&full, k % 2);
      y[32 * k + lane] = box[31 - lane];
      mbarrier_arrive(&empty);
    }
  }
}
