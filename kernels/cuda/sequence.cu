// The LSTM over a whole sequence in one launch: W_hh is read once and stays on chip for all steps.
//
// Blocks form teams (team.cuh). A team takes `slice` sequences; each of its `members` blocks takes `share` hidden units:
// all four rows of W_hh for each of them in forward, their columns in backward. In a step, a block multiplies its part by
// all of h (by all of dz in backward), finishes the cells of its units, and shows its part of the new h (dz) to its team.
// Warps split rows and k (mma.cuh); their sums meet in shared memory and are added in a fixed order. Steps that no
// sequence of a team has cost it neither product nor barrier.
//
// A launch has one recurrence or several, each with as many teams as the first, after them. Either they know nothing of
// each other, say both directions of a layer; or, for Grid, they are layers of a stack, each on top of the one before.
// Then a layer multiplies [h before the step; h of the layer below after it] by [W_hh; W_ih], in backward [dz after the
// step; dz of the layer above in it], and these lie next to each other in what it is shown: it waits for other layers as
// it waits for its own team. A layer waits for those below only (in backward above), so some layer can always go on, and
// step t of one runs beside step t + 1 of the one below.
//
//   shared memory: weights, as Product wants them; 2 buffers (8 N, pitch) of h or dz if Team::local; sums (split, 8 N, rows)

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
  unsigned batch, hidden, members, share, slice, split, pitch;

  __device__ unsigned teams() const { return (batch + slice - 1) / slice; }  // of each recurrence
  __device__ unsigned run() const { return blockIdx.x / (members * teams()); }
};

// A recurrence: what forward takes of it, and backward.
template <typename S>
struct Forward {
  S* z;                        // (T, B, 4H) pre-activations; becomes the activated gates if keep
  const S* weight_hh;          // (4H, H)
  S* h;                        // (T + 1, B, H), the slot before the first step is there
  S* shown;                    // for Grid: (T + 1, B, row) likewise, the others have all bits set; may be h
  Arithmetic<S>* c;            // (T + 1, B, H), or (1, B, H) where not keep
  const int64* lengths;        // (B,), or null: all T
  int64 steps;                 // T
  bool reverse;
  unsigned row;                // elements from row to row of what is shown
  struct {
    const S* weight_ih;         // (4H, H): a layer on top of another; null: it is none
    const Arithmetic<S>* bias;  // (4H,): of such a layer, in place of z, which need not be there if not keep
    const S* factors;           // (T, B, H) on h for the layer above; null: ones
    int64 next;                 // from where a number is shown to where it is for the layer above; 0: there is none
  } stack;
};

template <typename S>
struct Backward {
  const S* gates;          // (T, B, 4H)
  S* dz;                   // (T, B, 4H), may be gates
  S* shown;                // for Grid: (T, B, row), all bits of dz set; may be dz, not gates
  const S* weight_hh;      // (4H, H)
  const Arithmetic<S>* c;  // (T + 1, B, H)
  const S* dy;             // (T, B, H), or null: zeros
  Arithmetic<S>* dh;       // (B, H): of the last h; becomes that of h0
  Arithmetic<S>* dc;       // (B, H), likewise
  const int64* lengths;    // (B,), or null: all T
  int64 steps;             // T
  bool reverse;
  unsigned row;            // elements from row to row of what is shown
  struct {
    const S* weight_ih;  // (4H, H) of the layer above; shown then has T + 1 slots, zeros where no step is; null: none
    const S* factors;    // (T, B, H) on h for the layer above; null: ones
    int64 next;          // from where a number is shown to where it is for the layer below; 0: there is none
  } stack;
};

// A row of what is shown: h, or dz, with zeros up to whole packs; in a stack two halves, each with zeros up to whole
// chunks, the layer's own numbers and another one's.

// What a launch has, all of it one argument. Those that aren't there have null pointers.
constexpr unsigned MOST_RUNS = 4;
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
__device__ __forceinline__ void forward(const Runs<Forward<S>>& runs, unsigned* gave_up, bool keep,
                                        const Layout& layout) {
  using T = Arithmetic<S>;
  const unsigned run = layout.run();
  // What is asked for again where it is needed takes no registers meanwhile.
  const auto again = [&]() -> const Forward<S>& { return runs.of[computed_anew(run)]; };
  const Forward<S>& given = runs.of[run];
  S* const shown_to_all = given.shown;
  const int64 steps = given.steps;
  const bool reverse = given.reverse, stacked = !Team::local && given.stack.weight_ih;
  const unsigned row = given.row;
  using Weights = Product<S, M, N>;
  extern __shared__ __align__(16) char memory[];
  const Work<N> work(layout);
  const unsigned hidden = layout.hidden, rows = 4 * layout.share, buffer = 8 * N * layout.pitch;
  const unsigned half = whole<Weights::depth>(hidden);
  const unsigned chunks = (stacked ? 2 : 1) * half / Weights::depth;
  const int64 cells = int64(layout.batch) * hidden;
  Team team(gave_up, layout.members);
  const S* const weight_ih = stacked ? given.stack.weight_ih : nullptr;
  const OwnRows<S> own{given.weight_hh, weight_ih, half, hidden, work.first_unit, work.units, layout.share};
  const Weights weights(memory, rows, chunks, layout.split, layout.pitch, own);
  S* const shown = reinterpret_cast<S*>(memory + Weights::bytes(rows, chunks, layout.split, layout.pitch));
  const Sums<N, T> sums(reinterpret_cast<T*>(shown + (Team::local ? 2 * buffer : 0)), rows);

  if (Team::local) {
    const S* const h0 = given.h + (reverse ? steps : 0) * cells + int64(work.first_sequence) * hidden;
    fill(shown + buffer, buffer);
    for (unsigned i = threadIdx.x; i < buffer; i += blockDim.x) {
      const unsigned column = i / layout.pitch, k = i % layout.pitch;
      shown[i] = column < work.sequences && k < hidden ? h0[int64(column) * hidden + k] : S(0.0f);
    }
  }

  T state[CELLS];
  const int64 active_steps = work.active_steps(given.lengths, steps);
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
        const unsigned unit = work.first_unit + place.unit;
        if (stacked)
          gates[n] = load_gates<T>(again().stack.bias + unit, hidden);
        else
          gates[n] = load_gates<T>(again().z + (t * layout.batch + place.sequence) * 4 * hidden + unit, hidden);
        if (step == 0 || !work.one_tile()) state[n] = again().c[(keep ? before : 0) * cells + place.cell];
      }
      if (active) {
        if constexpr (Team::local) {
          if (number == 0) team.arrive();  // with h0
          team.wait();
          weights.add(SharedColumns<S>{shown + number % 2 * buffer, layout.pitch}, rows, sums.start, sums.pitch);
        } else {
          const S* const start = shown_to_all + (before * layout.batch + work.first_sequence + tile) * row;
          const AwaitedColumns<S> columns{start, work.sequences - tile, row, team.patience()};
          if (tile == 0) __syncthreads();  // the sums are read
          weights.add(columns, rows, sums.start, sums.pitch);
        }
        __syncthreads();
      }
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {
        const Place place(work, tile, n);
        if (!place.inside) continue;
        S output;
        if (again().lengths && t >= again().lengths[place.sequence]) {
          output = again().h[before * cells + place.cell];
        } else {
          Gates<T>& one = gates[n];
          sums.template add_to<4>({&one.i, &one.f, &one.g, &one.o}, place.column, place.unit, layout.share,
                                   0, layout.split);
          T next, out;
          cell_forward<T>(one, state[n], next, out);
          state[n] = next;
          output = S(out);
          if (keep)
            store_gates(again().z + (t * layout.batch + place.sequence) * 4 * hidden + work.first_unit + place.unit,
                        hidden, one);
        }
        if (Team::local || shown_to_all != again().h) again().h[after * cells + place.cell] = output;
        if constexpr (!Team::local) {
          S* const here = shown_to_all + (after * layout.batch + place.sequence) * row + work.first_unit + place.unit;
          publish(here, output);
          if (const int64 next = again().stack.next) {
            const S* const factors = again().stack.factors;
            if (factors) output = S(T(output) * T(factors[t * cells + place.cell]));
            publish(here + next, output);
          }
        }
        if (keep || step + 1 == steps || !work.one_tile()) again().c[(keep ? after : 0) * cells + place.cell] = state[n];
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

template <typename S, typename Team, int M, int N>
__global__ void __launch_bounds__(THREADS<S>, 1)
    sequence_forward(const __grid_constant__ Runs<Forward<S>> runs,
                     unsigned* gave_up,  // (all teams,) zeros, for Grid with a watchdog
                     int keep, const __grid_constant__ Layout layout) {
  forward<S, Team, M, N>(runs, gave_up, keep, layout);
}

// The same in clusters of so many blocks.
template <typename S, int Members, int M, int N>
__global__ void OF_CLUSTER(Members) __launch_bounds__(THREADS<S>, 1)
    sequence_forward_cluster(const __grid_constant__ Runs<Forward<S>> runs, unsigned* gave_up, int keep,
                             const __grid_constant__ Layout layout) {
  forward<S, Cluster, M, N>(runs, gave_up, keep, layout);
}

// ---- backward

template <typename S, typename Team, int M, int N>
__device__ __forceinline__ void backward(const Runs<Backward<S>>& runs, unsigned* gave_up, const Layout& layout) {
  using T = Arithmetic<S>;
  const unsigned run = layout.run();
  const auto again = [&]() -> const Backward<S>& { return runs.of[computed_anew(run)]; };
  const Backward<S>& given = runs.of[run];
  S* const shown_to_all = given.shown;
  const int64 steps = given.steps;
  const bool reverse = given.reverse, stacked = !Team::local && given.stack.weight_ih;
  const unsigned row = given.row;
  using Weights = Product<S, M, N>;
  extern __shared__ __align__(16) char memory[];
  const Work<N> work(layout);
  const unsigned hidden = layout.hidden, rows = layout.share, depth = 4 * hidden, buffer = 8 * N * layout.pitch;
  const unsigned half = whole<Weights::depth>(depth);
  const unsigned chunks = (stacked ? 2 : 1) * half / Weights::depth;
  const int64 cells = int64(layout.batch) * hidden;
  Team team(gave_up, layout.members);
  const S* const weight_ih = stacked ? given.stack.weight_ih : nullptr;
  const OwnColumns<S> own{given.weight_hh, weight_ih, half, hidden, work.first_unit, work.units};
  const Weights weights(memory, rows, chunks, layout.split, layout.pitch, own);
  S* const shown = reinterpret_cast<S*>(memory + Weights::bytes(rows, chunks, layout.split, layout.pitch));
  const Sums<N, T> sums(reinterpret_cast<T*>(shown + (Team::local ? 2 * buffer : 0)), rows);

  if constexpr (Team::local) {
    fill(shown, 2 * buffer);
    team.arrive();
    team.wait();  // others write here from the first step on
  }

  const int64 active_steps = work.active_steps(given.lengths, steps);
  T from_h[CELLS], from_c[CELLS];    // dh of a sequence that has no such step, dc
  for (int64 step = 0; step <= steps; ++step) {
    const bool last = step == steps;  // only the product, for the initial state
    const int64 t = reverse ? step : steps - 1 - step, before = reverse ? t + 1 : t, after = reverse ? t : t + 1;
    const int64 shown_step = reverse ? min(t, active_steps) - 1 : t + 1;  // the one whose dz the team shows
    const bool active = !last && t < active_steps;
    const bool multiplies = (active || last) && (stacked || (shown_step >= 0 && shown_step < active_steps));
    for (unsigned tile = 0; tile < work.sequences; tile += 8 * N) {
      Gates<T> saved[CELLS];
      T c_before[CELLS], c_after[CELLS], outside[CELLS], factor[CELLS];
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {  // loads that need not wait for others
        const Place place(work, tile, n);
        if (!place.inside) continue;
        if (step == 0 || !work.one_tile()) from_h[n] = again().dh[place.cell], from_c[n] = again().dc[place.cell];
        if (last) continue;
        const int64 line = t * layout.batch + place.sequence;
        saved[n] = load_gates<T>(again().gates + line * depth + work.first_unit + place.unit, hidden);
        c_before[n] = again().c[before * cells + place.cell], c_after[n] = again().c[after * cells + place.cell];
        outside[n] = again().dy ? T(again().dy[line * hidden + work.first_unit + place.unit]) : T(0);
        factor[n] = stacked && again().stack.factors ? T(again().stack.factors[t * cells + place.cell]) : T(1);
      }
      if (multiplies) {
        if constexpr (Team::local) {
          team.wait();
          const SharedColumns<S> columns{shown + shown_step % 2 * buffer, layout.pitch};
          weights.add(columns, rows, sums.start, sums.pitch);
        } else {
          const S* const start = shown_to_all + (shown_step * layout.batch + work.first_sequence + tile) * row;
          const AwaitedColumns<S> columns{start, work.sequences - tile, row, team.patience()};
          if (tile == 0) __syncthreads();  // the sums are read
          weights.add(columns, rows, sums.start, sums.pitch);
        }
        __syncthreads();
      }
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {
        const Place place(work, tile, n);
        if (!place.inside) continue;
        const unsigned own_parts = stacked ? layout.split / 2 : layout.split;
        if (multiplies) sums.template add_to<1>({&from_h[n]}, place.column, place.unit, 0, 0, own_parts);
        if (multiplies && stacked && !last) {
          T from_above = T(0);
          sums.template add_to<1>({&from_above}, place.column, place.unit, 0, own_parts, layout.split);
          from_h[n] += from_above * factor[n];
        }
        if (!last) {
          Gates<T> one = {T(0), T(0), T(0), T(0)};
          if (!again().lengths || t < again().lengths[place.sequence]) {
            one = saved[n];
            cell_backward<T>(one, c_before[n], c_after[n], from_h[n] + outside[n], from_c[n]);
            from_h[n] = T(0);
          }
          const int64 line = t * layout.batch + place.sequence;
          const unsigned unit = work.first_unit + place.unit;
          if (Team::local || shown_to_all != again().dz) store_gates(again().dz + line * depth + unit, hidden, one);
          if constexpr (!Team::local) {
            S* const here = shown_to_all + line * row + unit;
            publish_gates(here, hidden, one);
            if (const int64 next = again().stack.next) publish_gates(here + next, hidden, one);
          }
          if (active) {
            S* const here = shown + t % 2 * buffer + place.column * layout.pitch + work.first_unit + place.unit;
            team.give(here, S(one.i), layout.members);
            team.give(here + hidden, S(one.f), layout.members);
            team.give(here + 2 * hidden, S(one.g), layout.members);
            team.give(here + 3 * hidden, S(one.o), layout.members);
          }
        }
        if (last || !work.one_tile()) again().dh[place.cell] = from_h[n], again().dc[place.cell] = from_c[n];
      }
      if (tile + 8 * N < work.sequences) __syncthreads();  // the sums are read
    }
    if constexpr (Team::local) {
      if (active) team.arrive();
    }
  }
}

template <typename S, typename Team, int M, int N>
__global__ void __launch_bounds__(THREADS<S>, 1)
    sequence_backward(const __grid_constant__ Runs<Backward<S>> runs, unsigned* gave_up,
                      const __grid_constant__ Layout layout) {
  backward<S, Team, M, N>(runs, gave_up, layout);
}

template <typename S, int Members, int M, int N>
__global__ void OF_CLUSTER(Members) __launch_bounds__(THREADS<S>, 1)
    sequence_backward_cluster(const __grid_constant__ Runs<Backward<S>> runs, unsigned* gave_up,
                              const __grid_constant__ Layout layout) {
  backward<S, Cluster, M, N>(runs, gave_up, layout);
}
