// A product that the blocks of a cluster do together, where its columns are long: each takes a part of k, and multiplies
// the rows of all by it. So a block reads only its part of the columns from L2, once, and what goes from block to block
// are sums: they are added where the rows' units are.
//
// Sums are sent by st.async, which tells an mbarrier of the block they go to how many bytes have come. Nobody sends
// before the whole cluster has read the sums before: it arrives at the cluster's barrier after that, and waits there when
// the next columns are on their way.
//
// That barrier hands nothing on: all that it orders are reads before it and writes after it, of the same places. A read is
// over once its value is there, and an arrival follows from the values (arrive_after): it would not come if one were the
// NaN that no arithmetic gives. So it need not release what was written before, which takes a fence of the whole device
// (MEMBAR.ALL.GPU), right behind the dz that all others wait for. The mailbox is released, once, before the loop.
// With GPU_LSTM_RELEASED defined each arrival releases, to be timed.

// One number of 8 bytes in shared memory that counts bytes which other blocks send.
struct Mailbox {
  unsigned long long* barrier;

  __device__ void open() const {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(here()) : "memory");
#endif
  }
  __device__ void expect(unsigned bytes) const {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(here()), "r"(bytes) : "memory");
#endif
  }
  // Until all bytes of a round have come: even rounds, then odd ones.
  __device__ void wait(unsigned parity) const {
#if __CUDA_ARCH__ >= 900
    unsigned done;
    do {
      asm volatile(
          "{\n.reg .pred p;\n"
          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
          "selp.u32 %0, 1, 0, p;\n}"
          : "=r"(done)
          : "r"(here()), "r"(parity)
          : "memory");
    } while (!done);
#endif
  }
  // 16 bytes to a place in the shared memory of that block of the cluster, and their number to its mailbox.
  template <typename T>
  __device__ __forceinline__ void send(const T* to, const Pack<T, 16 / sizeof(T)>& values, unsigned rank) const {
#if __CUDA_ARCH__ >= 900
    const unsigned(&word)[4] = reinterpret_cast<const unsigned(&)[4]>(values);
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                     in_block(unsigned(__cvta_generic_to_shared(to)), rank)),
                 "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3]), "r"(in_block(here(), rank))
                 : "memory");
#endif
  }

 private:
  __device__ unsigned here() const { return unsigned(__cvta_generic_to_shared(barrier)); }
  static __device__ unsigned in_block(unsigned address, unsigned rank) {
    unsigned there = address;
#if __CUDA_ARCH__ >= 900
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
#endif
    return there;
  }
};

// The sums of a cluster: what was multiplied for the units of this block lies here, by block, part of k in it, and rows,
// as lanes had it: those of rows group .. and columns 2 t .. are 4 neighbours in place 8 t + group. A warp multiplies for
// one block.
template <int M, int N, typename T>
struct JointSums {
  static constexpr unsigned of_warp = 128 * M * N;
  T* start;
  unsigned split;  // parts of k within a block
  Mailbox mailbox;
  unsigned round = 0;

  __device__ JointSums(T* start, unsigned, unsigned split)
      : start(start), split(split),
        mailbox{reinterpret_cast<unsigned long long*>(start + JointGrid::blocks * split * of_warp)} {}

  template <int Rows>
  __device__ __forceinline__ void take(const Item& item, unsigned, const T (&sum)[Rows][N][4]) const {
    constexpr int V = 16 / sizeof(T);
    const unsigned lane = computed_anew(threadIdx.x % 32), place = lane % 4 * 8 + lane / 4;
    T* const to = start + (JointGrid::rank() * split + item.part) * of_warp + place * 4;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int v = 0; v < 4; v += V)
          mailbox.send(to + (m * N + n) * 128 + v, reinterpret_cast<const Pack<T, V>&>(sum[m][n][v]),
                       item.first / (16 * M));
  }
  // All are there.
  __device__ void wait() {
    if (threadIdx.x == 0) mailbox.expect(JointGrid::blocks * split * of_warp * sizeof(T));
    mailbox.wait(round++ % 2);
  }
  template <int Rows>
  __device__ __forceinline__ void add_to(T* const (&values)[Rows], unsigned column, unsigned row, unsigned apart) const {
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      const unsigned at = row + r * apart, place = column % 8 / 2 * 8 + at % 8;
      const T* from = start + (at / 16 * N + column / 8) * 128 + place * 4 + at % 16 / 8 * 2 + column % 2;
#pragma unroll 2
      for (unsigned part = 0; part < JointGrid::blocks * split; ++part, from += of_warp) *values[r] += *from;
    }
  }
};

// Columns of W_hh for the units of a cluster, `share` of each block at every 16 M-th row; k from `from` on.
template <typename S, int M>
struct JointColumns {
  static constexpr bool by_rows = false;
  static constexpr bool whole() { return false; }
  const S* weight_hh;
  unsigned hidden, first, share, from;

  __device__ __forceinline__ Line<S> line(unsigned row) const {
    const unsigned of_block = row % (16 * M), unit = first + row / (16 * M) * share + of_block;
    const bool inside = of_block < share && unit < hidden && from < 4 * hidden;
    const S* const start = weight_hh + (inside ? int64(from) * hidden + unit : 0);
    return {start, start, ~0u, inside ? 4 * hidden - from : 0, hidden};
  }
};

// What a block multiplies by in backward: k is `deep` times H, `blocks` take a part of it each.
template <typename S, typename Team, int M, int N>
struct BackwardParts {
  using Sum = Sums<N, Arithmetic<S>>;
  static constexpr unsigned deep = 4, blocks = 1;
  template <typename Layout>
  static __device__ unsigned rows(const Layout& layout) {
    return layout.share;
  }
  template <typename Work>
  static __device__ OwnColumns<S> weights(const S* weight_hh, const S* weight_ih, const Work& work, unsigned half) {
    return {weight_hh, weight_ih, half, work.layout.hidden, work.first_unit, work.units};
  }
};
template <typename S, int M, int N>
struct BackwardParts<S, JointGrid, M, N> {
  using Sum = JointSums<M, N, Arithmetic<S>>;
  static constexpr unsigned deep = 4, blocks = JointGrid::blocks;
  template <typename Layout>
  static __device__ unsigned rows(const Layout&) {
    return blocks * 16 * M;
  }
  template <typename Work>
  static __device__ JointColumns<S, M> weights(const S* weight_hh, const S*, const Work& work, unsigned part) {
    const unsigned from = JointGrid::rank() * part;
    const auto& layout = work.layout;
    return {weight_hh, layout.hidden, work.first_unit - JointGrid::rank() * layout.share, layout.share, from};
  }
};

// Part of the columns, `depth` from k = `from` on, read by all threads together into shared memory. All of a thread's are
// asked for before any is waited for; then the cluster is, whose blocks may still read what lies there.
template <typename S, int N>
__device__ __forceinline__ SharedColumns<S, false> gathered(const AwaitedColumns<S>& columns, S* to, unsigned pitch,
                                                     unsigned from, unsigned depth) {
  constexpr int V = 16 / sizeof(S), AT_ONCE = 4;
  const unsigned packs = depth / V, all = 8 * N * packs;
#pragma unroll 1
  for (unsigned start = 0; start < all; start += AT_ONCE * blockDim.x) {
    Pack<S, V> some[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      const unsigned at = start + i * blockDim.x + threadIdx.x;
      some[i] = at < all ? columns.ask(at / packs, from + at % packs * V) : Pack<S, V>{};
    }
    if (start == 0) JointGrid::wait();
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      const unsigned at = start + i * blockDim.x + threadIdx.x;
      columns.settle(some[i], at / packs, from + at % packs * V);
      if (at < all) store(to + at / packs * pitch + at % packs * V, some[i]);
    }
  }
  __syncthreads();
  return {to, pitch, columns.patience};
}
