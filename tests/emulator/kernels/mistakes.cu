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
  misaligned,
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

// y[i] = x[n - 1 - i] by way of dynamic shared memory
template <Mistake M>
__global__ void reverse(const float* x, float* y, int n) {
  extern __shared__ float memory[];
  const int i = threadIdx.x;
  if (i < n && !(M == not_written && i == 3)) memory[M == past_the_end ? i + 1 : i] = x[i];
  __syncthreads();
  if (i < n) y[i] = memory[M == past_the_end ? n - i : n - 1 - i];
}

// The same with an array of fixed size.
template <Mistake M>
__global__ void reverse_32(const float* x, float* y) {
  __shared__ float memory[32];
  const int i = threadIdx.x;
  memory[M == past_the_end ? i + 1 : i] = x[i];
  __syncthreads();
  y[i] = memory[31 - i];
}

// y = 2 x, of global memory
template <Mistake M>
__global__ void twice(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (M == past_the_end ? i <= n : i < n) y[i] = 2.0f * x[M == before_the_start ? i - 1 : i];
}

// y = x, four at once
template <Mistake M>
__global__ void copy_by_four(const float* x, float* y, int n) {
  const int i = 4 * threadIdx.x + (M == misaligned ? 1 : 0);
  if (i + 4 <= n) *(float4*)(y + i) = *(const float4*)(x + i);
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
    if (threadIdx.x < 32)
      __syncthreads();
    else
      __syncthreads();
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

// What stands for ld.acquire and st.release needs no fences.
template <Mistake M>
__global__ void message_by_order(const float* x, float* data, unsigned* flag, float* seen) {
  const int i = threadIdx.x;
  if (blockIdx.x == 0) {
    data[i] = x[i];
    __syncthreads();
    if (i == 0) {
      if (M == no_fence)
        emulator::store_relaxed(flag, 1u);
      else
        emulator::store_release(flag, 1u);
    }
  } else {
    if (i == 0)
      while ((M == no_fence_of_reader ? emulator::load_relaxed(flag) : emulator::load_acquire(flag)) == 0) {
      }
    __syncthreads();
    seen[i] = data[i];
  }
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

// ---- clusters

// The same within clusters, through the shared memory of the next block. x (blocks * blockDim)
template <Mistake M>
__global__ void rotate_cluster(float* x, int steps) {
  __shared__ float mine[2][32];
  const int i = threadIdx.x, at = blockIdx.x * blockDim.x + i;
  const unsigned rank = emulator::cluster_rank(), next = (rank + 1) % emulator::cluster_blocks();
  float v = x[at];
  if (M != no_barrier_at_start) emulator::cluster_barrier();
  for (int step = 0; step < steps; ++step) {
    emulator::map_shared(&mine[step % 2][i], next)[0] = v;
    if (M == no_barrier_before) {
      __syncthreads();
    } else if (M == relaxed_arrival) {
      emulator::cluster_arrive(emulator::Arrival::relaxed);
      emulator::cluster_wait();
    } else {
      if (M != waits_without_arrival) emulator::cluster_arrive();
      if (M == arrives_twice) emulator::cluster_arrive();
      emulator::cluster_wait();
    }
    v = mine[step % 2][i];
  }
  x[at] = v;
  if (M != no_barrier_at_end) emulator::cluster_barrier();
  if (M == no_barrier_at_end) *emulator::map_shared(&mine[steps % 2][i], next) = v;
}
