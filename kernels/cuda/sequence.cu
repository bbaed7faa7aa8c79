// The LSTM over a whole sequence in one launch: W_hh is read once and stays on chip for all steps.
//
// Blocks form teams (team.cuh). A team takes `slice` sequences; each of its `members` blocks takes `share` hidden units:
// all four rows of W_hh for each of them in forward, their columns in backward. In a step, a block multiplies its part by
// all of h (by all of dz in backward), finishes the cells of its units, and shows its part of the new h (dz) to its team.
// Warps split rows and k (mma.cuh); their sums meet in shared memory and are added in a fixed order. Steps that no
// sequence of a team has cost it neither product nor barrier.
//
// A launch has one recurrence or two, say both directions of a layer: the second has as many teams as the first, after
// them, and knows nothing of it.
//
//   shared memory: weights, as Product wants them; `buffers` (8 N, pitch) of h or dz, a step each; sums (split, 8 N, rows)

#include "common.cuh"
#include "cell.cuh"
#include "mma.cuh"
#include "team.cuh"
#include "columns.cuh"

constexpr unsigned CELLS = 2;  // share * 8 N <= THREADS * CELLS

#if __CUDA_ARCH__ >= 900
#define OF_CLUSTER(members) __cluster_dims__(members, 1, 1)
#else
#define OF_CLUSTER(members)
#endif

// Sizes, as gpu_lstm/recurrence/onchip.py plans them.
struct Layout {
  unsigned batch, hidden, members, share, slice, split, pitch, buffers;

  __device__ unsigned teams() const { return (batch + slice - 1) / slice; }  // of each recurrence
  __device__ bool in_second() const { return blockIdx.x >= members * teams(); }
};

// A recurrence: what forward takes of it, and backward.
template <typename S>
struct Forward {
  S* z;                  // (T, B, 4H) pre-activations; becomes the activated gates if keep
  const S* weight_hh;    // (4H, H)
  S* h;                  // (T + 1, B, H), the slot before the first step is there
  S* shown;              // for Grid: (T + 1, B, H up to whole packs) likewise, the others have all bits set; may be h
  Arithmetic<S>* c;      // (T + 1, B, H), or (1, B, H) where not keep
  const int64* lengths;  // (B,), or null: all T
  int64 steps;           // T
  bool reverse;
};

template <typename S>
struct Backward {
  const S* gates;          // (T, B, 4H)
  S* dz;                   // (T, B, 4H), may be gates
  S* shown;                // for Grid: (T, B, 4H up to whole packs), all bits of the 4H set; may be dz, not gates
  const S* weight_hh;      // (4H, H)
  const Arithmetic<S>* c;  // (T + 1, B, H)
  const S* dy;             // (T, B, H), or null: zeros
  Arithmetic<S>* dh;       // (B, H): of the last h; becomes that of h0
  Arithmetic<S>* dc;       // (B, H), likewise
  const int64* lengths;    // (B,), or null: all T
  int64 steps;             // T
  bool reverse;
};

// What a launch has, all of it one argument. Those that aren't there have null pointers.
constexpr unsigned MOST_RUNS = 2;
template <typename Run>
struct Runs {
  Run of[MOST_RUNS];
};

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
    const unsigned index = computed_anew(threadIdx.x) + number * blockDim.x;
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

// What the team gives has not come yet, in a buffer of columns.
template <typename S>
__device__ __forceinline__ void conceal_all(S* buffer, unsigned columns, unsigned depth, unsigned pitch) {
  constexpr unsigned V = 16 / sizeof(S);
  const unsigned packs = (depth + V - 1) / V;
  for (unsigned i = threadIdx.x; i < columns * packs; i += blockDim.x)
    conceal(buffer + i / packs * pitch, i % packs * V, depth);
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

template <typename S, typename Team, int M, int N>
__device__ __forceinline__ void forward(const Forward<S>& run, unsigned* gave_up, bool keep,
                                        const Layout& layout) {
  using T = Arithmetic<S>;
  const auto [z, weight_hh, h, shown_to_all, c, lengths, steps, reverse] = run;
  using Weights = Product<S, M, N>;
  extern __shared__ __align__(16) char memory[];
  const Work<N> work(layout);
  const unsigned hidden = layout.hidden, rows = 4 * layout.share, buffer = 8 * N * layout.pitch;
  const unsigned chunks = (hidden + Weights::depth - 1) / Weights::depth;
  const unsigned pitch = whole_packs<S>(hidden);
  const int64 cells = int64(layout.batch) * hidden;
  Team team(gave_up, layout.members);
  const OwnRows<S> own{weight_hh, hidden, work.first_unit, work.units, layout.share};
  const Weights weights(memory, rows, chunks, layout.split, layout.pitch, own);
  S* const shown = reinterpret_cast<S*>(memory + Weights::bytes(rows, chunks, layout.split, layout.pitch));
  const Sums<N, T> sums(reinterpret_cast<T*>(shown + layout.buffers * buffer), rows, layout.split);

  if constexpr (Team::local) {
    const S* const h0 = h + (reverse ? steps : 0) * cells + int64(work.first_sequence) * hidden;
    fill(shown + buffer, (layout.buffers - 1) * buffer);
    for (unsigned i = threadIdx.x; i < buffer; i += blockDim.x) {
      const unsigned column = i / layout.pitch, k = i % layout.pitch;
      const bool inside = column < work.sequences && k < hidden;
      reinterpret_cast<Bits<S>*>(shown)[i] = inside ? present(h0[int64(column) * hidden + k]) : Bits<S>(0);
    }
    if constexpr (Team::conceals) {
      __syncthreads();
      for (unsigned n = 1; n < layout.buffers; ++n) conceal_all(shown + n * buffer, work.sequences, hidden, layout.pitch);
      team.meet();  // others write here from the first step on
    }
  }

  T state[CELLS];
  const int64 active_steps = work.active_steps(lengths, steps);
  unsigned given = 0;  // buffer of the h to multiply
  for (int64 step = 0; step < steps; ++step) {
    const int64 t = reverse ? steps - 1 - step : step, before = reverse ? t + 1 : t, after = reverse ? t : t + 1;
    const int64 number = reverse ? active_steps - 1 - t : t;  // of the active step
    const bool active = t < active_steps, others_follow = active && number + 1 < active_steps;
    const unsigned next_given = given + 1 < layout.buffers ? given + 1 : 0;
    for (unsigned tile = 0; tile < work.sequences; tile += 8 * N) {
      Gates<T> gates[CELLS];
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {  // loads that need not wait for others
        const Place place(work, tile, n);
        if (!place.inside) continue;
        gates[n] = load_gates<T>(z + (t * layout.batch + place.sequence) * 4 * hidden + work.first_unit + place.unit, hidden);
        if (step == 0 || !work.one_tile()) state[n] = c[(keep ? before : 0) * cells + place.cell];
      }
      if (active) {
        if (tile == 0) __syncthreads();  // the sums are read; h is there, if this block is alone
        if constexpr (Team::local) {
          const SharedColumns<S, Team::conceals> columns{shown + given * buffer, layout.pitch, team.patience()};
          weights.add(columns, rows, sums.start, sums.pitch);
        } else {
          const S* const start = shown_to_all + (before * layout.batch + work.first_sequence + tile) * pitch;
          const AwaitedColumns<S> columns{start, work.sequences - tile, pitch, step == 0, team.patience()};
          weights.add(columns, rows, sums.start, sums.pitch);
        }
        __syncthreads();
        if (Team::conceals && layout.buffers == 2) {
          conceal_all(shown + given * buffer, work.sequences, hidden, layout.pitch);
          __syncthreads();
        }
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
          sums.template add_to<4>({&one.i, &one.f, &one.g, &one.o}, place.column, place.unit, layout.share);
          T next, out;
          cell_forward<InCell<S>>(one, state[n], next, out);
          state[n] = next;
          output = S(out);
        }
        // First what others wait for.
        const unsigned unit = work.first_unit + place.unit;
        if (!Team::local) publish(shown_to_all + (after * layout.batch + place.sequence) * pitch + unit, output);
        if (others_follow)
          team.give(shown + next_given * buffer + place.column * layout.pitch + unit, output, layout.members);
        if (Team::local || shown_to_all != h) h[after * cells + place.cell] = output;
        if (keep && (!lengths || t < lengths[place.sequence]))
          store_gates(z + (t * layout.batch + place.sequence) * 4 * hidden + unit, hidden, gates[n]);
        if (keep || step + 1 == steps || !work.one_tile()) c[(keep ? after : 0) * cells + place.cell] = state[n];
      }
      if (tile + 8 * N < work.sequences) __syncthreads();  // the sums are read
    }
    if constexpr (Team::local) {
      if (Team::conceals && layout.buffers == 3 && active)
        conceal_all(shown + given * buffer, work.sequences, hidden, layout.pitch);
      if (others_follow) given = next_given;
    }
  }
  if constexpr (Team::conceals) team.meet();  // a block stays while another may write to it
}

template <typename S, typename Team, int M, int N>
__global__ void __launch_bounds__(THREADS<S>, 1)
    sequence_forward(const __grid_constant__ Runs<Forward<S>> runs,
                     unsigned* gave_up,  // (all teams,) zeros, for Grid with a watchdog
                     int keep, const __grid_constant__ Layout layout) {
  forward<S, Team, M, N>(runs.of[layout.in_second()], gave_up, keep, layout);
}

// The same in clusters of so many blocks.
template <typename S, int Members, int M, int N>
__global__ void OF_CLUSTER(Members) __launch_bounds__(THREADS<S>, 1)
    sequence_forward_cluster(const __grid_constant__ Runs<Forward<S>> runs, unsigned* gave_up, int keep,
                             const __grid_constant__ Layout layout) {
  forward<S, Cluster, M, N>(runs.of[layout.in_second()], gave_up, keep, layout);
}

// ---- backward

template <typename S, typename Team, int M, int N>
__device__ __forceinline__ void backward(const Backward<S>& run, unsigned* gave_up, const Layout& layout) {
  using T = Arithmetic<S>;
  const auto [gates, dz, shown_to_all, weight_hh, c, dy, dh, dc, lengths, steps, reverse] = run;
  using Weights = Product<S, M, N>;
  extern __shared__ __align__(16) char memory[];
  const Work<N> work(layout);
  const unsigned hidden = layout.hidden, rows = layout.share, depth = 4 * hidden, buffer = 8 * N * layout.pitch;
  const unsigned chunks = (depth + Weights::depth - 1) / Weights::depth;
  const unsigned pitch = whole_packs<S>(depth);
  const int64 cells = int64(layout.batch) * hidden;
  Team team(gave_up, layout.members);
  const OwnColumns<S> own{weight_hh, hidden, work.first_unit, work.units};
  const Weights weights(memory, rows, chunks, layout.split, layout.pitch, own);
  S* const shown = reinterpret_cast<S*>(memory + Weights::bytes(rows, chunks, layout.split, layout.pitch));
  const Sums<N, T> sums(reinterpret_cast<T*>(shown + layout.buffers * buffer), rows, layout.split);

  if constexpr (Team::local) {
    fill(shown, layout.buffers * buffer);
    if constexpr (Team::conceals) {
      __syncthreads();
      for (unsigned n = 0; n < layout.buffers; ++n) conceal_all(shown + n * buffer, work.sequences, depth, layout.pitch);
    }
    team.meet();  // others write here from the first step on
  }

  const int64 active_steps = work.active_steps(lengths, steps);
  T from_h[CELLS], from_c[CELLS];    // dh of a sequence that has no such step, dc
  unsigned given = layout.buffers - 1;  // buffer of the dz to multiply
  for (int64 step = 0; step <= steps; ++step) {
    const bool last = step == steps;  // only the product, for the initial state
    const int64 t = reverse ? step : steps - 1 - step, before = reverse ? t + 1 : t, after = reverse ? t : t + 1;
    const int64 shown_step = reverse ? min(t, active_steps) - 1 : t + 1;  // the one whose dz the team shows
    const bool active = !last && t < active_steps;
    const bool multiplies = (active || last) && shown_step >= 0 && shown_step < active_steps;
    const unsigned next_given = given + 1 < layout.buffers ? given + 1 : 0;
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
        saved[n] = load_gates<T>(gates + row * depth + work.first_unit + place.unit, hidden);
        c_before[n] = c[before * cells + place.cell], c_after[n] = c[after * cells + place.cell];
        outside[n] = dy ? T(dy[row * hidden + work.first_unit + place.unit]) : T(0);
      }
      if (multiplies) {
        if (tile == 0) __syncthreads();  // the sums are read; dz is there, if this block is alone
        if constexpr (Team::local) {
          const SharedColumns<S, Team::conceals> columns{shown + given * buffer, layout.pitch, team.patience()};
          weights.add(columns, rows, sums.start, sums.pitch);
        } else {
          const S* const start = shown_to_all + (shown_step * layout.batch + work.first_sequence + tile) * pitch;
          const AwaitedColumns<S> columns{start, work.sequences - tile, pitch, false, team.patience()};
          weights.add(columns, rows, sums.start, sums.pitch);
        }
        __syncthreads();
        if (Team::conceals && layout.buffers == 2) {
          conceal_all(shown + given * buffer, work.sequences, depth, layout.pitch);
          __syncthreads();
        }
      }
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {
        const Place place(work, tile, n);
        if (!place.inside) continue;
        if (multiplies) sums.template add_to<1>({&from_h[n]}, place.column, place.unit, 0);
        if (!last) {
          Gates<T> one = {T(0), T(0), T(0), T(0)};
          if (!lengths || t < lengths[place.sequence]) {
            one = saved[n];
            cell_backward<InCell<S>>(one, c_before[n], c_after[n], from_h[n] + outside[n], from_c[n]);
            from_h[n] = T(0);
          }
          const int64 row = t * layout.batch + place.sequence;
          const unsigned unit = work.first_unit + place.unit;
          // First what others wait for.
          if (!Team::local) publish_gates(shown_to_all + row * pitch + unit, hidden, one);
          if (active) {
            S* const here = shown + next_given * buffer + place.column * layout.pitch + unit;
            team.give(here, S(one.i), layout.members);
            team.give(here + hidden, S(one.f), layout.members);
            team.give(here + 2 * hidden, S(one.g), layout.members);
            team.give(here + 3 * hidden, S(one.o), layout.members);
          }
          if (Team::local || shown_to_all != dz) store_gates(dz + row * depth + unit, hidden, one);
        }
        if (last || !work.one_tile()) dh[place.cell] = from_h[n], dc[place.cell] = from_c[n];
      }
      if (tile + 8 * N < work.sequences) __syncthreads();  // the sums are read
    }
    if constexpr (Team::local) {
      if (Team::conceals && layout.buffers == 3 && multiplies)
        conceal_all(shown + given * buffer, work.sequences, depth, layout.pitch);
      if (active) given = next_given;
    }
  }
  if constexpr (Team::conceals) team.meet();  // a block stays while another may write to it
}

template <typename S, typename Team, int M, int N>
__global__ void __launch_bounds__(THREADS<S>, 1)
    sequence_backward(const __grid_constant__ Runs<Backward<S>> runs, unsigned* gave_up,
                      const __grid_constant__ Layout layout) {
  backward<S, Team, M, N>(runs.of[layout.in_second()], gave_up, layout);
}

template <typename S, int Members, int M, int N>
__global__ void OF_CLUSTER(Members) __launch_bounds__(THREADS<S>, 1)
    sequence_backward_cluster(const __grid_constant__ Runs<Backward<S>> runs, unsigned* gave_up,
                              const __grid_constant__ Layout layout) {
  backward<S, Cluster, M, N>(runs.of[layout.in_second()], gave_up, layout);
}
