// Sums over rows of all units of a team, as layer normalisation has them: each thread puts the numbers of its cells into
// shared memory, a warp a column adds those of the block, blocks hand each other two numbers a column, and the warp puts
// them together, in a fixed order.

// So many numbers, their mean, and the sum of squares of their distances from it.
template <typename T>
struct Moments {
  T count, mean, squares;

  // Chan, Golub and LeVeque, 1979.
  __device__ void add(const Moments& more) {
    const T all = count + more.count;
    if (all == T(0)) return;
    const T apart = more.mean - mean, share = more.count / all;
    mean += apart * share;
    squares += more.squares + apart * apart * count * share;
    count = all;
  }
};

template <int N, typename T, typename Team>
struct RowSums {
  T *values, *given, *result;  // (8 N, numbers, share), (2, 8 N, members, 2) if Team::local, (8 N, 2)
  unsigned numbers, members;   // of a cell, at most; blocks
  T* handed;                   // for Grid: (2, T, B, members, 2)
  T epsilon;

  __device__ RowSums(T* memory, unsigned numbers, const Layout& layout, T* handed, T epsilon)
      : values(memory),
        given(values + 8 * N * numbers * layout.share),
        result(given + (Team::local ? 32 * N * layout.members : 0)),
        numbers(numbers),
        members(layout.members),
        handed(handed),
        epsilon(epsilon) {}

  // Before the others write.
  __device__ void conceal() const {
    for (unsigned column = threadIdx.x / 32; column < 16 * N; column += blockDim.x / 32)
      conceal_row(given + column * 2 * members);
  }

  __device__ T& at(const Layout& layout, const Place& place, unsigned number) const {
    return values[(place.column * numbers + number) * layout.share + place.unit];
  }
  __device__ T first(const Place& place) const { return result[2 * place.column]; }
  __device__ T second(const Place& place) const { return result[2 * place.column + 1]; }

  // first: the mean of each column's `of` numbers a cell; second: 1 / sqrt(variance + epsilon). By all threads.
  __device__ __forceinline__ void moments(const Team& team, const Work<N>& work, unsigned exchange, unsigned of, int64 steps,
                                          int64 t, unsigned tile) const {
    const auto own = [&](unsigned column) {
      T sum = T(0), squares = T(0);
      over_own(work, column, of, [&](unsigned place) { sum += values[place]; });
      const T count = T(of * work.units), mean = work.units ? over_warp(sum) / count : T(0);
      over_own(work, column, of, [&](unsigned place) { squares += (values[place] - mean) * (values[place] - mean); });
      return Pair{mean, over_warp(squares)};
    };
    const auto all = [&](const auto& of_block) {
      Moments<T> moments = {T(0), T(0), T(0)};
      for (unsigned block = threadIdx.x % 32; block < members; block += 32) {
        const Pair pair = of_block(block);
        moments.add({T(of * units_of(work, block)), pair.first, pair.second});
      }
#pragma unroll
      for (int apart = 16; apart > 0; apart /= 2)
        moments.add({__shfl_xor_sync(~0u, moments.count, apart), __shfl_xor_sync(~0u, moments.mean, apart),
                     __shfl_xor_sync(~0u, moments.squares, apart)});
      return Pair{moments.mean, T(1) / square_root(moments.squares / moments.count + epsilon)};
    };
    meet(team, work, exchange, steps, t, tile, own, all);
  }

  // first and second: the means, over all of the `of` numbers a cell that they stand for, of each cell's two.
  __device__ __forceinline__ void means(const Team& team, const Work<N>& work, unsigned exchange, unsigned of, int64 steps,
                                        int64 t, unsigned tile) const {
    const auto own = [&](unsigned column) {
      Pair sums = {T(0), T(0)};
      over_own(work, column, 1, [&](unsigned place) {
        sums.first += values[place], sums.second += values[place + work.layout.share];
      });
      return Pair{over_warp(sums.first), over_warp(sums.second)};
    };
    const auto all = [&](const auto& of_block) {
      Pair sums = {T(0), T(0)};
      for (unsigned block = threadIdx.x % 32; block < members; block += 32) {
        const Pair pair = of_block(block);
        sums.first += pair.first, sums.second += pair.second;
      }
      const T count = T(of * work.layout.hidden);
      return Pair{over_warp(sums.first) / count, over_warp(sums.second) / count};
    };
    meet(team, work, exchange, steps, t, tile, own, all);
  }

 private:
  struct Pair {
    T first, second;
  };

  static __device__ unsigned units_of(const Work<N>& work, unsigned block) {
    const unsigned from = block * work.layout.share;
    return from < work.layout.hidden ? min(work.layout.share, work.layout.hidden - from) : 0;
  }
  static __device__ __forceinline__ T over_warp(T value) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
    return value;
  }
  // Calls `use` with the places of the block's numbers of a column, by a warp.
  template <typename Use>
  __device__ __forceinline__ void over_own(const Work<N>& work, unsigned column, unsigned of, const Use& use) const {
    const unsigned share = work.layout.share;
    for (unsigned i = threadIdx.x % 32; i < of * share; i += 32)
      if (i % share < work.units) use(column * numbers * share + i);
  }

  // By a warp.
  __device__ void conceal_row(T* row) const {
    if constexpr (Team::conceals) {
      constexpr unsigned V = 16 / sizeof(T);
      for (unsigned k = threadIdx.x % 32 * V; k < 2 * members; k += 32 * V) ::conceal(row, k, 2 * members);
    }
  }
  // A warp's two numbers for all blocks, from that of this rank.
  __device__ __forceinline__ void show(T* row, const Pair& mine, unsigned rank) const {
    const unsigned lane = threadIdx.x % 32;
    T* const here = row + 2 * rank;
    if constexpr (Team::conceals) {
      if (lane < members) {
        T* const there = Team::in_block(here, lane);
        publish<Memory::cluster>(there, mine.first), publish<Memory::cluster>(there + 1, mine.second);
      }
    } else if (lane == 0) {
      if constexpr (Team::local)
        here[0] = mine.first, here[1] = mine.second;
      else
        publish(here, mine.first), publish(here + 1, mine.second);
    }
  }
  // Those of a block, once they are there.
  __device__ __forceinline__ Pair taken(const T* row, unsigned block, Patience patience) const {
    if constexpr (Team::conceals) {
      constexpr unsigned V = 16 / sizeof(T);
      for (;;) {
        const Pack<T, V> pack = look_at_own(row + 2 * block / V * V);
        const Pair pair = 2 * block % V == 0 ? Pair{pack.at[0], pack.at[1]} : Pair{pack.at[V - 2], pack.at[V - 1]};
        if ((!is_missing(pair.first) && !is_missing(pair.second)) || patience.over()) return pair;
      }
    } else if constexpr (Team::local) {
      return {row[2 * block], row[2 * block + 1]};
    } else {
      return {await(row + 2 * block, patience), await(row + 2 * block + 1, patience)};
    }
  }

  // In a cluster, each exchange has a place of its own, concealed again before the next: nobody writes to it before all
  // have shown their numbers of that.
  template <typename Own, typename All>
  __device__ __forceinline__ void meet(const Team& team, const Work<N>& work, unsigned exchange, int64 steps, int64 t,
                                       unsigned tile, const Own& own, const All& all) const {
    const unsigned column = threadIdx.x / 32;
    __syncthreads();  // the values are there
    if (column < 8 * N && tile + column < work.sequences) {
      const int64 of_all = (exchange * steps + t) * work.layout.batch + work.first_sequence + tile + column;
      T* const row = Team::local ? given + (exchange * 8 * N + column) * 2 * members : handed + of_all * 2 * members;
      show(row, own(column), blockIdx.x % members);
      const Patience patience = team.patience();
      const Pair pair = all([&](unsigned block) { return taken(row, block, patience); });
      if (threadIdx.x % 32 == 0) result[2 * column] = pair.first, result[2 * column + 1] = pair.second;
      __syncwarp();  // all lanes have theirs
      conceal_row(row);
    }
    __syncthreads();  // the result is there
  }
};
