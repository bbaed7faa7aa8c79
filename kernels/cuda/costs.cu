// What waiting costs on a device, to put beside the sequence kernels: barriers of their teams, reads of another block's
// shared memory. Launched by benchmarks/machine_on_gpu.py.

#include "common.cuh"
#include "cell.cuh"
#include "mma.cuh"
#include "team.cuh"
#include "columns.cuh"
#include "joint.cuh"

#if __CUDA_ARCH__ >= 900
#define OF_CLUSTER(members) __cluster_dims__(members, 1, 1)
#else
#define OF_CLUSTER(members)
#endif

// A barrier of the grid, which the sequence kernels do without: what it costs says what that saves. `arrived` counts
// blocks, 0 at first.
struct GridBarrier {
  unsigned *arrived, members, expected = 0;

  __device__ GridBarrier(unsigned* arrived, unsigned members) : arrived(arrived), members(members) {}
  __device__ void meet() {
    __syncthreads();
    expected += members;
    if (threadIdx.x == 0) count();
    if (threadIdx.x == 0)
      while (int(seen() - expected) < 0) {
      }
    __syncthreads();
  }

 private:
  __device__ void count() const {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
  }
  __device__ unsigned seen() const {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(arrived) : "memory");
    return value;
  }
};

template <typename Team>
__device__ void many_barriers(unsigned* arrived, unsigned members, int rounds) {
  Team team(arrived, members);
  for (int round = 0; round < rounds; ++round) team.meet();
}

template <typename Team>
__global__ void barriers(unsigned* arrived, unsigned members, int rounds) {
  many_barriers<Team>(arrived, members, rounds);
}

template <int Members>
__global__ void OF_CLUSTER(Members) barriers_cluster(unsigned* arrived, unsigned members, int rounds) {
  many_barriers<Cluster>(arrived, members, rounds);
}

// Each block waits for a number of its neighbour before it shows the next one. slots (rounds, members), all bits set
__global__ void handovers(float* slots, unsigned members, int rounds) {
  for (int round = 0; threadIdx.x == 0 && round < rounds; ++round) {
    publish(slots + int64(round) * members + blockIdx.x, float(round));
    await(slots + int64(round) * members + (blockIdx.x + 1) % members, Patience(nullptr));
  }
}

// The same in the shared memory of a cluster. out (blocks)
template <int Members>
__global__ void OF_CLUSTER(Members) handovers_in_cluster(float* out, int rounds) {
  __shared__ __align__(16) float seen[4];
  Cluster team(nullptr, Members);
  if (threadIdx.x < 4) seen[threadIdx.x] = -1.0f;
  team.meet();
  for (int round = 0; threadIdx.x == 0 && round < rounds; ++round) {
    publish<Memory::cluster>(Cluster::in_block(seen, (blockIdx.x + 1) % Members), float(round));
    while (look_at_own(seen).at[0] < round) {
    }
  }
  team.meet();
  if (threadIdx.x == 0) out[blockIdx.x] = seen[0];
}

// In each round a block shows `own` numbers, a multiple of 4, and reads those of all, or one of `parts` of them: what the grid
// form of the sequence kernels does with h, and the joint form with dz. slots (rounds, blocks, own), all bits set
__global__ void gathers(float* slots, unsigned own, unsigned parts, int rounds) {
  constexpr unsigned AT_ONCE = 4;
  const unsigned all = gridDim.x * own, depth = all / 4 / parts * 4, from = blockIdx.x % parts * depth;
  for (int round = 0; round < rounds; ++round) {
    float* const slot = slots + int64(round) * all;
    for (unsigned i = threadIdx.x; i < own; i += blockDim.x) publish(slot + blockIdx.x * own + i, float(round));
#pragma unroll 1
    for (unsigned start = 4 * threadIdx.x; start < depth; start += 4 * AT_ONCE * blockDim.x) {
      Pack<float, 4> some[AT_ONCE];
#pragma unroll
      for (unsigned i = 0; i < AT_ONCE; ++i) {
        const unsigned at = start + 4 * i * blockDim.x;
        if (at < depth) some[i] = look<float, 4>(slot + from + at);
      }
#pragma unroll
      for (unsigned i = 0; i < AT_ONCE; ++i) {
        const unsigned at = start + 4 * i * blockDim.x;
        while (at < depth && is_missing(some[i])) some[i] = look<float, 4>(slot + from + at);
      }
    }
    __syncthreads();
  }
}

// One thread follows numbers from block to block of its cluster, each read waiting for the one before. out (blocks)
template <int Members>
__global__ void OF_CLUSTER(Members) reads_in_cluster(unsigned* out, int rounds) {
  __shared__ unsigned next;
  Cluster team(nullptr, Members);
  if (threadIdx.x == 0) next = (blockIdx.x + 1) % Members;
  team.meet();
  unsigned at = blockIdx.x % Members;
  if (threadIdx.x == 0)
    for (int round = 0; round < rounds; ++round) at = *Cluster::in_block(&next, at);
  if (threadIdx.x == 0) out[blockIdx.x] = at;
  team.meet();  // others may still read here
}

// Each block of a cluster sends 512 bytes of sums to each, and waits for those of all: what the joint form of the sequence
// kernels does in a step. 256 threads; shared memory: 4096 bytes and 16. out (blocks, threads)
__global__ void sums_in_cluster(float* out, int rounds) {
  extern __shared__ __align__(16) char memory[];
  JointSums<1, 1, float> sums(reinterpret_cast<float*>(memory), 0, 1);
  if (threadIdx.x == 0) sums.mailbox.open();
  JointGrid::arrive();
  const Item item(JointGrid::blocks * 16, 16, 1, 1);
  float value = JointGrid::rank();
  for (int round = 0; round < rounds; ++round) {
    const float mine[1][1][4] = {{{value, value, value, value}}};
    JointGrid::wait();
    sums.take(item, 0, mine);
    sums.wait();
    value = 0;
    sums.add_to<1>({&value}, threadIdx.x % 8, threadIdx.x / 8 % 16, 0);
    value /= JointGrid::blocks;
    JointGrid::arrive();
  }
  JointGrid::wait();
  out[blockIdx.x * blockDim.x + threadIdx.x] = value;
}
