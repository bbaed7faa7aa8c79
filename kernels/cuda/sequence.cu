// The LSTM over a whole sequence in one launch: W_hh is read once and stays in shared memory for all steps.
//
// Blocks form teams (team.cuh). A team takes `slice` sequences; each of its `members` blocks takes `share` hidden units:
// all four rows of W_hh for each of them in forward, their columns in backward. In a step, a block multiplies its part by
// all of h (by all of dz in backward), finishes the cells of its units, and shows its part of the new h (dz) to its team.
// Warps split rows and k; their sums meet in shared memory and are added in a fixed order. Steps that no sequence of a
// team has cost it neither product nor barrier.
//
// A launch has one recurrence or two, say both directions of a layer: the second has as many teams as the first, after
// them, and knows nothing of it.
//
//   shared memory: weights (rows, pitch), 2 buffers (8 N, pitch) of h or dz if Team::local, sums (split, 8 N, rows | 1)

#include "common.cuh"
#include "cell.cuh"
#include "mma.cuh"
#include "team.cuh"

constexpr unsigned THREADS = 512, CELLS = 2;  // share * 8 N <= THREADS * CELLS

#if __CUDA_ARCH__ >= 900
#define OF_CLUSTER(members) __cluster_dims__(members, 1, 1)
#else
#define OF_CLUSTER(members)
#endif

// Sizes, as gpu_lstm/recurrence/onchip.py plans them.
struct Layout {
  unsigned batch, hidden, members, share, slice, split, pitch;

  __device__ unsigned teams() const { return (batch + slice - 1) / slice; }  // of each recurrence
  __device__ bool in_second() const { return blockIdx.x >= members * teams(); }
};

// A recurrence: what forward takes of it, and backward.
template <typename S>
struct Forward {
  S* z;                  // (T, B, 4H) pre-activations; becomes the activated gates if keep
  const S* weight_hh;    // (4H, H)
  S* h;                  // (T + 1, B, H), the slot before the first step is there; for Grid, the others have all bits set
  Arithmetic<S>* c;      // (T + 1, B, H), or (1, B, H) where not keep
  const int64* lengths;  // (B,), or null: all T
  int64 steps;           // T
  bool reverse;
};

template <typename S>
struct Backward {
  const S* gates;          // (T, B, 4H)
  S* dz;                   // (T, B, 4H), may be gates; for Grid, elsewhere, and all bits are set
  const S* weight_hh;      // (4H, H)
  const Arithmetic<S>* c;  // (T + 1, B, H)
  const S* dy;             // (T, B, H), or null: zeros
  Arithmetic<S>* dh;       // (B, H): of the last h; becomes that of h0
  Arithmetic<S>* dc;       // (B, H), likewise
  const int64* lengths;    // (B,), or null: all T
  int64 steps;             // T
  bool reverse;
};

#define SIZES \
  unsigned batch, unsigned hidden, unsigned members, unsigned share, unsigned slice, unsigned split, unsigned pitch

// ---- the product

// Columns of h or dz: rows of sequences in shared memory, zeros beyond what is there.
template <typename S>
struct SharedColumns {
  const S* start;
  unsigned pitch;

  template <int V = 16 / sizeof(S)>
  __device__ __forceinline__ Pack<S, V> at(unsigned column, unsigned k) const {
    return load<V>(start + column * pitch + k);
  }
};

// The same in global memory, while others write it: every number says itself whether it is there, so that the grid needs
// no barrier. Of h, the slot before the first step is there from the start.
template <typename S>
struct AwaitedColumns {
  const S* start;
  unsigned columns, depth;
  bool packs;  // whole accesses of 16 bytes
  bool there;
  Patience patience;

  template <int V = 16 / sizeof(S)>
  __device__ __forceinline__ Pack<S, V> at(unsigned column, unsigned k) const {
    const S* const from = start + int64(column) * depth + k;
    if (packs && column < columns && k < depth) return await<S, V>(from, there, patience);
    Pack<S, V> values;
#pragma unroll
    for (int v = 0; v < V; ++v)
      values.at[v] = column < columns && k + v < depth ? await<S, 1>(from + v, there, patience).at[0] : S(0.0f);
    return values;
  }
};

// sums[part][column][row] = weights (rows, depth) times the columns, over the k of that part.
template <int N, typename S, typename Columns>
__device__ __forceinline__ void product(const S* weights, unsigned rows, unsigned depth, const Layout& layout,
                                        const Columns& columns, Arithmetic<S>* sums) {
  using Part = Tile<S, N>;
  const unsigned chunks = (depth + Part::depth - 1) / Part::depth, items = (rows + 31) / 32 * layout.split;
  const unsigned group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  for (unsigned item = threadIdx.x / 32; item < items; item += blockDim.x / 32) {
    const unsigned first = item / layout.split * 32, part = item % layout.split;
    Part sum;
#pragma unroll 1
    for (unsigned chunk = chunks * part / layout.split; chunk < chunks * (part + 1) / layout.split; ++chunk)
      sum.add(weights + first * layout.pitch, rows - first, layout.pitch, columns, chunk * Part::depth);
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int i = 0; i < 2 * N; ++i) {
        const unsigned row = first + 8 * r + group, column = 8 * (i / 2) + 2 * t + i % 2;
        if (row < rows) sums[(part * 8 * N + column) * (rows | 1) + row] = sum.at(r, i / 2, i % 2);
      }
  }
}

template <int N, typename T>
__device__ __forceinline__ T total(const T* sums, unsigned rows, unsigned split, unsigned column, unsigned row) {
  T value = T(0);
  for (unsigned part = 0; part < split; ++part) value += sums[(part * 8 * N + column) * (rows | 1) + row];
  return value;
}

// ---- who does what

// What a block works on, and a thread's cells: units of sequences, `tile` of up to 8 N sequences after tile.
template <int N>
struct Work {
  Layout layout;
  unsigned first_unit, units, first_sequence, sequences;

  __device__ explicit Work(const Layout& layout) : layout(layout) {
    first_unit = blockIdx.x % layout.members * layout.share;
    units = first_unit < layout.hidden ? min(layout.share, layout.hidden - first_unit) : 0;
    first_sequence = blockIdx.x / layout.members % layout.teams() * layout.slice;
    sequences = min(layout.slice, layout.batch - first_sequence);
  }
  __device__ bool one_tile() const { return layout.slice <= 8 * N; }
  // Steps that one of the team's sequences has.
  __device__ int64 active_steps(const int64* lengths, int64 steps) const {
    if (!lengths) return steps;
    int64 most = 0;
    for (unsigned i = 0; i < sequences; ++i) most = max(most, lengths[first_sequence + i]);
    return most;
  }
};

struct Place {
  unsigned column, unit;  // within the tile, within the block's share
  unsigned sequence;      // of the batch
  int64 cell;             // sequence * hidden + hidden unit
  bool inside;

  template <int N>
  __device__ __forceinline__ Place(const Work<N>& work, unsigned tile, unsigned number) {
    const unsigned index = threadIdx.x + number * THREADS;
    column = index / work.layout.share;
    unit = index - column * work.layout.share;
    inside = column < 8 * N && tile + column < work.sequences && unit < work.units;
    sequence = work.first_sequence + tile + column;
    cell = int64(sequence) * work.layout.hidden + work.first_unit + unit;
  }
};

template <typename S>
__device__ __forceinline__ void fill(S* to, unsigned count) {
  for (unsigned i = threadIdx.x; i < count; i += blockDim.x) to[i] = S(0.0f);
}

template <typename T, typename S>
__device__ __forceinline__ Gates<T> load_gates(const S* from, unsigned hidden) {
  return {T(from[0]), T(from[hidden]), T(from[2ll * hidden]), T(from[3ll * hidden])};
}

template <typename S, typename T>
__device__ __forceinline__ void store_gates(S* to, unsigned hidden, const Gates<T>& gates) {
  to[0] = S(gates.i);
  to[hidden] = S(gates.f);
  to[2ll * hidden] = S(gates.g);
  to[3ll * hidden] = S(gates.o);
}

template <typename S, typename T>
__device__ __forceinline__ void publish_gates(S* to, unsigned hidden, const Gates<T>& gates) {
  publish(to, S(gates.i));
  publish(to + hidden, S(gates.f));
  publish(to + 2ll * hidden, S(gates.g));
  publish(to + 3ll * hidden, S(gates.o));
}

// ---- forward

template <typename S, typename Team, int N>
__device__ __forceinline__ void forward(const Forward<S>& run, unsigned* gave_up, bool keep, bool packs,
                                        const Layout& layout) {
  using T = Arithmetic<S>;
  const auto [z, weight_hh, h, c, lengths, steps, reverse] = run;
  extern __shared__ __align__(16) char memory[];
  const Work<N> work(layout);
  const unsigned hidden = layout.hidden, rows = 4 * layout.share, buffer = 8 * N * layout.pitch;
  const int64 cells = int64(layout.batch) * hidden;
  Team team(gave_up, layout.members);
  S* const weights = reinterpret_cast<S*>(memory);
  S* const shown = weights + rows * layout.pitch;
  T* const sums = reinterpret_cast<T*>(shown + (Team::local ? 2 * buffer : 0));

  for (unsigned i = threadIdx.x; i < rows * layout.pitch; i += THREADS) {
    const unsigned row = i / layout.pitch, k = i % layout.pitch, gate = row / layout.share, unit = row % layout.share;
    const bool inside = unit < work.units && k < hidden;
    weights[i] = inside ? weight_hh[(int64(gate) * hidden + work.first_unit + unit) * hidden + k] : S(0.0f);
  }
  if (Team::local) {
    const S* const h0 = h + (reverse ? steps : 0) * cells + int64(work.first_sequence) * hidden;
    fill(shown + buffer, buffer);
    for (unsigned i = threadIdx.x; i < buffer; i += THREADS) {
      const unsigned column = i / layout.pitch, k = i % layout.pitch;
      shown[i] = column < work.sequences && k < hidden ? h0[int64(column) * hidden + k] : S(0.0f);
    }
  }

  T state[CELLS];
  const int64 active_steps = work.active_steps(lengths, steps);
  for (int64 step = 0; step < steps; ++step) {
    const int64 t = reverse ? steps - 1 - step : step, before = reverse ? t + 1 : t, after = reverse ? t : t + 1;
    const int64 number = reverse ? active_steps - 1 - t : t;  // of the active step
    const bool active = t < active_steps, others_follow = active && number + 1 < active_steps;
    for (unsigned tile = 0; tile < work.sequences; tile += 8 * N) {
      Gates<T> gates[CELLS];
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {  // loads that need not wait for others
        const Place place(work, tile, n);
        if (!place.inside) continue;
        gates[n] = load_gates<T>(z + (t * layout.batch + place.sequence) * 4 * hidden + place.cell % hidden, hidden);
        if (step == 0 || !work.one_tile()) state[n] = c[(keep ? before : 0) * cells + place.cell];
      }
      if (active) {
        if constexpr (Team::local) {
          if (number == 0) team.arrive();  // with h0
          team.wait();
          product<N>(weights, rows, hidden, layout, SharedColumns<S>{shown + number % 2 * buffer, layout.pitch}, sums);
        } else {
          const S* const start = h + before * cells + int64(work.first_sequence + tile) * hidden;
          const AwaitedColumns<S> columns{start, work.sequences - tile, hidden, packs, step == 0, team.patience()};
          if (tile == 0) __syncthreads();  // the sums are read
          product<N>(weights, rows, hidden, layout, columns, sums);
        }
        __syncthreads();
      }
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {
        const Place place(work, tile, n);
        if (!place.inside) continue;
        S output;
        if (lengths && t >= lengths[place.sequence]) {
          output = h[before * cells + place.cell];
        } else {
          Gates<T>& one = gates[n];
          one.i += total<N>(sums, rows, layout.split, place.column, place.unit);
          one.f += total<N>(sums, rows, layout.split, place.column, layout.share + place.unit);
          one.g += total<N>(sums, rows, layout.split, place.column, 2 * layout.share + place.unit);
          one.o += total<N>(sums, rows, layout.split, place.column, 3 * layout.share + place.unit);
          T next, out;
          cell_forward<T>(one, state[n], next, out);
          state[n] = next;
          output = S(out);
          if (keep)
            store_gates(z + (t * layout.batch + place.sequence) * 4 * hidden + place.cell % hidden, hidden, one);
        }
        publish(h + after * cells + place.cell, output);
        if (keep || step + 1 == steps || !work.one_tile()) c[(keep ? after : 0) * cells + place.cell] = state[n];
        if (others_follow)
          team.give(shown + (number + 1) % 2 * buffer + place.column * layout.pitch + work.first_unit + place.unit,
                    output, layout.members);
      }
      if (tile + 8 * N < work.sequences) __syncthreads();  // the sums are read
    }
    if constexpr (Team::local) {
      if (others_follow) team.arrive();
    }
  }
}

#define FORWARD_OF(n) \
  S *z##n, const S *weight_hh##n, S *h##n, Arithmetic<S>*c##n, const int64 *lengths##n, int64 steps##n, int reverse##n
// A branch, so that what a recurrence works on stays where the parameters are, and takes no registers.
#define FORWARD(Team)                                                                                               \
  const Layout layout = {batch, hidden, members, share, slice, split, pitch};                                       \
  if (layout.in_second())                                                                                           \
    forward<S, Team, N>({z2, weight_hh2, h2, c2, lengths2, steps2, bool(reverse2)}, gave_up, keep, packs, layout);  \
  else                                                                                                              \
    forward<S, Team, N>({z1, weight_hh1, h1, c1, lengths1, steps1, bool(reverse1)}, gave_up, keep, packs, layout)

template <typename S, typename Team, int N>
__global__ void __launch_bounds__(THREADS, 1)
    sequence_forward(FORWARD_OF(1), FORWARD_OF(2),  // all of the second null where there is one
                     unsigned* gave_up,             // (all teams,) zeros, for Grid with a watchdog
                     int keep,
                     int packs,  // h is read in accesses of 16 bytes
                     SIZES) {
  FORWARD(Team);
}

// The same in clusters of so many blocks.
template <typename S, int Members, int N>
__global__ void OF_CLUSTER(Members) __launch_bounds__(THREADS, 1)
    sequence_forward_cluster(FORWARD_OF(1), FORWARD_OF(2), unsigned* gave_up, int keep, int packs, SIZES) {
  FORWARD(Cluster);
}

// ---- backward

template <typename S, typename Team, int N>
__device__ __forceinline__ void backward(const Backward<S>& run, unsigned* gave_up, bool packs, const Layout& layout) {
  using T = Arithmetic<S>;
  const auto [gates, dz, weight_hh, c, dy, dh, dc, lengths, steps, reverse] = run;
  extern __shared__ __align__(16) char memory[];
  const Work<N> work(layout);
  const unsigned hidden = layout.hidden, rows = layout.share, depth = 4 * hidden, buffer = 8 * N * layout.pitch;
  const int64 cells = int64(layout.batch) * hidden;
  Team team(gave_up, layout.members);
  S* const weights = reinterpret_cast<S*>(memory);
  S* const shown = weights + rows * layout.pitch;
  T* const sums = reinterpret_cast<T*>(shown + (Team::local ? 2 * buffer : 0));

  for (unsigned i = threadIdx.x; i < rows * layout.pitch; i += THREADS) {
    const unsigned k = i / rows, unit = i % rows;
    const bool inside = unit < work.units && k < depth;
    weights[unit * layout.pitch + k] = inside ? weight_hh[int64(k) * hidden + work.first_unit + unit] : S(0.0f);
  }
  if constexpr (Team::local) {
    fill(shown, 2 * buffer);
    team.arrive();
    team.wait();  // others write here from the first step on
  }

  const int64 active_steps = work.active_steps(lengths, steps);
  T from_h[CELLS], from_c[CELLS];    // dh of a sequence that has no such step, dc
  for (int64 step = 0; step <= steps; ++step) {
    const bool last = step == steps;  // only the product, for the initial state
    const int64 t = reverse ? step : steps - 1 - step, before = reverse ? t + 1 : t, after = reverse ? t : t + 1;
    const int64 shown_step = reverse ? min(t, active_steps) - 1 : t + 1;  // the one whose dz the team shows
    const bool active = !last && t < active_steps;
    const bool multiplies = (active || last) && shown_step >= 0 && shown_step < active_steps;
    for (unsigned tile = 0; tile < work.sequences; tile += 8 * N) {
      Gates<T> saved[CELLS];
      T c_before[CELLS], c_after[CELLS], outside[CELLS];
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {  // loads that need not wait for others
        const Place place(work, tile, n);
        if (!place.inside) continue;
        if (step == 0 || !work.one_tile()) from_h[n] = dh[place.cell], from_c[n] = dc[place.cell];
        if (last) continue;
        const int64 row = t * layout.batch + place.sequence;
        saved[n] = load_gates<T>(gates + row * depth + place.cell % hidden, hidden);
        c_before[n] = c[before * cells + place.cell], c_after[n] = c[after * cells + place.cell];
        outside[n] = dy ? T(dy[row * hidden + place.cell % hidden]) : T(0);
      }
      if (multiplies) {
        if constexpr (Team::local) {
          team.wait();
          const SharedColumns<S> columns{shown + shown_step % 2 * buffer, layout.pitch};
          product<N>(weights, rows, depth, layout, columns, sums);
        } else {
          const S* const start = dz + (shown_step * layout.batch + work.first_sequence + tile) * depth;
          const AwaitedColumns<S> columns{start, work.sequences - tile, depth, packs, false, team.patience()};
          if (tile == 0) __syncthreads();  // the sums are read
          product<N>(weights, rows, depth, layout, columns, sums);
        }
        __syncthreads();
      }
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {
        const Place place(work, tile, n);
        if (!place.inside) continue;
        if (multiplies) from_h[n] += total<N>(sums, rows, layout.split, place.column, place.unit);
        if (!last) {
          Gates<T> one = {T(0), T(0), T(0), T(0)};
          if (!lengths || t < lengths[place.sequence]) {
            one = saved[n];
            cell_backward<T>(one, c_before[n], c_after[n], from_h[n] + outside[n], from_c[n]);
            from_h[n] = T(0);
          }
          publish_gates(dz + (t * layout.batch + place.sequence) * depth + place.cell % hidden, hidden, one);
          if (active) {
            S* const here = shown + t % 2 * buffer + place.column * layout.pitch + work.first_unit + place.unit;
            team.give(here, S(one.i), layout.members);
            team.give(here + hidden, S(one.f), layout.members);
            team.give(here + 2 * hidden, S(one.g), layout.members);
            team.give(here + 3 * hidden, S(one.o), layout.members);
          }
        }
        if (last || !work.one_tile()) dh[place.cell] = from_h[n], dc[place.cell] = from_c[n];
      }
      if (tile + 8 * N < work.sequences) __syncthreads();  // the sums are read
    }
    if constexpr (Team::local) {
      if (active) team.arrive();
    }
  }
}

#define BACKWARD_OF(n)                                                                                        \
  const S *gates##n, S *dz##n, const S *weight_hh##n, const Arithmetic<S>*c##n, const S *dy##n, Arithmetic<S>*dh##n, \
      Arithmetic<S>*dc##n, const int64 *lengths##n, int64 steps##n, int reverse##n
#define BACKWARD(Team)                                                                                               \
  const Layout layout = {batch, hidden, members, share, slice, split, pitch};                                        \
  if (layout.in_second())                                                                                            \
    backward<S, Team, N>({gates2, dz2, weight_hh2, c2, dy2, dh2, dc2, lengths2, steps2, bool(reverse2)}, gave_up,    \
                         packs, layout);                                                                             \
  else                                                                                                               \
    backward<S, Team, N>({gates1, dz1, weight_hh1, c1, dy1, dh1, dc1, lengths1, steps1, bool(reverse1)}, gave_up,    \
                         packs, layout)

template <typename S, typename Team, int N>
__global__ void __launch_bounds__(THREADS, 1)
    sequence_backward(BACKWARD_OF(1), BACKWARD_OF(2), unsigned* gave_up,
                      int packs,  // dz is read in accesses of 16 bytes
                      SIZES) {
  BACKWARD(Team);
}

template <typename S, int Members, int N>
__global__ void OF_CLUSTER(Members) __launch_bounds__(THREADS, 1)
    sequence_backward_cluster(BACKWARD_OF(1), BACKWARD_OF(2), unsigned* gave_up, int packs, SIZES) {
  BACKWARD(Cluster);
}
