// cp.async, mbarrier and st.async: right, and with what one may forget.

enum Mistake {
  none,
  no_wait,
  waits_too_little,
  no_barrier,
  no_init_barrier,
  wrong_parity,
  too_many_arrivals,
  wrong_bytes
};

// y = x, block by block of 4 * blockDim floats, two of them under way at the same time. n: floats, the last block may
// be part of one
template <Mistake M>
__global__ void pipeline(const float* x, float* y, int n) {
  __shared__ __align__(16) float box[2][4 * 32];
  const int i = 4 * threadIdx.x, size = 4 * blockDim.x, blocks = (n + size - 1) / size;
  const auto fetch = [&](int b) {
    const int left = n - (b * size + i);
    const unsigned bytes = left >= 4 ? 16 : left > 0 ? 4 * left : 0;
    if (b < blocks) emulator::copy_async<16>(&box[b % 2][i], bytes ? x + b * size + i : x, bytes);
    emulator::copy_async_commit();
  };
  fetch(0);
  for (int b = 0; b < blocks; ++b) {
    fetch(b + 1);
    if (M != no_wait) emulator::copy_async_wait(M == waits_too_little ? 2 : 1);
    if (M != no_barrier) __syncthreads();
    for (int k = threadIdx.x; k < size; k += blockDim.x)  // what other threads fetched
      if (b * size + k < n) y[b * size + k] = box[b % 2][k];
    __syncthreads();
  }
}

// Blocks of a cluster: in each step every block sends its number to all others by st.async, and adds up what it got.
// x (blocks), steps
template <Mistake M>
__global__ void all_to_all(float* x, int steps) {
  __shared__ float box[2][8];
  __shared__ uint64_t full[2];
  const unsigned rank = emulator::cluster_rank(), blocks = emulator::cluster_blocks();
  if (threadIdx.x == 0)
    for (int k = 0; k < 2; ++k) emulator::mbarrier_init(&full[k], 1);
  if (M == no_init_barrier)
    __syncthreads();
  else
    emulator::cluster_barrier();
  float v = x[blockIdx.x];
  for (int step = 0; step < steps; ++step) {
    const int k = step % 2;
    if (threadIdx.x == 0) {
      emulator::mbarrier_arrive_expect(&full[k], M == wrong_bytes ? 4 * blocks + 4 : 4 * blocks);
      if (M == too_many_arrivals) emulator::mbarrier_arrive(&full[k]), emulator::mbarrier_arrive(&full[k]);
    }
    if (threadIdx.x < blocks) {
      float* there = emulator::map_shared(&box[k][rank], threadIdx.x);
      emulator::store_async(there, v, emulator::map_shared(&full[k], threadIdx.x));
    }
    if (M != no_wait) emulator::mbarrier_wait(&full[k], M == wrong_parity ? step / 2 + 1 : step / 2);
    v = 0.0f;
    for (unsigned r = 0; r < blocks; ++r) v += (r + 1) * box[k][r];
    v = __int_as_float(__float_as_int(v)) / 64;
    emulator::cluster_barrier();  // all have read: the box may be filled again in the step after next
  }
  if (threadIdx.x == 0) x[blockIdx.x] = v;
}

// A block's own producer and consumer: the first warp fills, the second empties, by two mbarriers.
template <Mistake M>
__global__ void producer_consumer(const float* x, float* y, int count) {
  __shared__ float box[32];
  __shared__ uint64_t full, empty;
  const int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) emulator::mbarrier_init(&full, 32), emulator::mbarrier_init(&empty, 32);
  if (M != no_barrier) __syncthreads();
  for (int k = 0; k < count; ++k) {
    if (threadIdx.x < 32) {
      if (k > 0 && M != no_wait) emulator::mbarrier_wait(&empty, k - 1);
      box[lane] = x[32 * k + lane];
      emulator::mbarrier_arrive(&full);
    } else {
      while (!emulator::mbarrier_test(&full, k)) {
      }
      y[32 * k + lane] = box[31 - lane];
      emulator::mbarrier_arrive(&empty);
    }
  }
}
