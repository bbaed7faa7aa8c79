// Clusters of blocks: who is where, sums over distributed shared memory, and a ring without a barrier of the grid.

// where (blocks, 8): rank, blocks, index, size
extern "C" __global__ void places(int* where) {
  const emulator::Index index = emulator::cluster_index(), size = emulator::cluster_size();
  int* mine = where + 8 * ((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
  mine[0] = emulator::cluster_rank(), mine[1] = emulator::cluster_blocks();
  mine[2] = index.x, mine[3] = index.y, mine[4] = index.z, mine[5] = size.x, mine[6] = size.y, mine[7] = size.z;
}

// sums (blocks): of all x of the cluster, by reading the shared memory of its blocks
extern "C" __global__ void sums_of_clusters(const float* x, float* sums) {
  extern __shared__ float part[];
  const int i = threadIdx.x;
  part[i] = x[blockIdx.x * blockDim.x + i];
  emulator::cluster_barrier();
  if (i == 0) {
    float sum = 0.0f;
    for (unsigned rank = 0; rank < emulator::cluster_blocks(); ++rank) {
      const float* theirs = emulator::map_shared(part, rank);
      for (int k = 0; k < blockDim.x; ++k) sum += theirs[k];
    }
    sums[blockIdx.x] = sum;
  }
  emulator::cluster_barrier();
}

// Counts of all threads of the cluster by atomics on the shared memory of its first block; counts (clusters)
extern "C" __global__ void count_in_first_block(int* counts) {
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  emulator::cluster_barrier();
  atomicAdd(emulator::map_shared(&count, 0), 1);
  emulator::cluster_arrive();  // split: something else may be done in between
  const int cluster = blockIdx.x / emulator::cluster_blocks();
  emulator::cluster_wait();
  if (emulator::cluster_rank() == 0 && threadIdx.x == 0) counts[cluster] = count;
}

// x (blocks): `steps` times handed to the next block of the cluster, by a flag in its shared memory
extern "C" __global__ void ring(float* x, int steps) {
  __shared__ float box[2];
  __shared__ unsigned arrived;
  const unsigned next = (emulator::cluster_rank() + 1) % emulator::cluster_blocks();
  arrived = 0;
  float v = x[blockIdx.x];
  emulator::cluster_barrier();
  for (unsigned step = 0; step < steps; ++step) {
    *emulator::map_shared(&box[step % 2], next) = v;
    emulator::add_acquire_release(emulator::map_shared(&arrived, next), 1u);
    while (emulator::load_acquire(&arrived) <= step) {
    }
    v = box[step % 2];
    // The box after next is this one again: nobody may be two steps ahead.
    emulator::cluster_barrier();
  }
  x[blockIdx.x] = v;
}
