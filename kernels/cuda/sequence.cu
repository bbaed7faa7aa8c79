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
//   shared memory: weights, as Product wants them; `buffers` (8 N, pitch) of h or dz, a step each; sums (split, 8 N, rows)
//   if Team::joint: weights of all units of the cluster; (8 N, pitch) of the block's part of dz; sums from all blocks

#include "common.cuh"
#include "cell.cuh"
#include "mma.cuh"
#include "team.cuh"
#include "columns.cuh"
#include "joint.cuh"

constexpr unsigned CELLS = 2;  // share * 8 N <= THREADS * CELLS

#if __CUDA_ARCH__ >= 900
#define OF_CLUSTER(members) __cluster_dims__(members, 1, 1)
#else
#define OF_CLUSTER(members)
#endif

// Sizes, as gpu_lstm/recurrence/cuda/planner.py chooses them.
struct Layout {
  unsigned batch, hidden, members, share, slice, split, pitch, buffers;

  __device__ unsigned teams() const { return (batch + slice - 1) / slice; }  // of each recurrence
  __device__ unsigned run() const { return blockIdx.x / (members * teams()); }
};

// A recurrence: what forward takes of it, and backward.
template <typename S>
struct Forward {
  S* z;                  // (T, B, 4H) pre-activations; becomes the activated gates if keep
  const S* weight_hh;    // (4H, H)
  S* h;                  // (T + 1, B, H), the slot before the first step is there
  S* shown;              // for Grid: (T + 1, B, row) likewise, the others have all bits set; may be h
  Arithmetic<S>* c;      // (T + 1, B, H), or (1, B, H) where not keep
  const int64* lengths;  // (B,), or null: all T
  int64 steps;           // T
  bool reverse;
  unsigned row;          // elements from row to row of what is shown
  struct {
    const S* weight_ih;  // (4H, H): a layer on top of another; null: it is none
    const S* bias;       // (4H,): of such a layer, in place of z, which need not be there if not keep
    const S* factors;    // (T, B, H) on h for the layer above; null: ones
    int64 next;          // from where a number is shown to where it is for the layer above; 0: there is none
  } stack;

  template <typename Team, int M, int N>
  using Own = ForwardParts<S, N>;
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

  template <typename Team, int M, int N>
  using Own = BackwardParts<S, Team, M, N>;
};

// A row of what is shown: h, or dz, with zeros up to whole packs; in a stack two halves, each with zeros up to whole
// chunks, the layer's own numbers and another one's.

// What a launch has, all of it one argument, each with what its cells do (options.cuh). Those that aren't there have null
// pointers.
constexpr unsigned MOST_RUNS = 4;
template <typename Run, typename Cells>
struct Runs {
  struct : Run, Cells {
  } of[MOST_RUNS];
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

// A cell of a step.
struct Spot {
  int64 t;
  unsigned batch, hidden, sequence, unit;

  __device__ int64 row() const { return t * batch + sequence; }           // in (T, B)
  __device__ int64 at() const { return row() * hidden + unit; }           // in (T, B, H)
  __device__ int64 cell() const { return int64(sequence) * hidden + unit; }  // in (B, H)
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
  template <int N>
  __device__ __forceinline__ Spot spot(const Work<N>& work, int64 t) const {
    return {t, work.layout.batch, work.layout.hidden, sequence, work.first_unit + unit};
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

#include "options.cuh"
#include "rows.cuh"

// ---- a block

// Who may be a layer of a stack.
template <typename Team, typename Cells>
constexpr bool stackable = Cells::plain && !Team::local && !Team::joint;

// A block of one recurrence, forward or backward: the weights that it keeps, what it shows, the warps' sums.
template <typename Run, typename S, typename Team, int M, int N, typename Cells>
struct Block {
  using T = Arithmetic<S>;
  using Weights = Product<S, M, N, Cells::fewer_held>;
  using Own = typename Run::template Own<Team, M, N>;

  const Runs<Run, Cells>& runs;
  const Layout& layout;
  const unsigned run = layout.run();
  const Run& mine = runs.of[run];
  const Cells& options = runs.of[run];
  const bool stacked = stackable<Team, Cells> && mine.stack.weight_ih;
  const Work<N> work{layout};
  const unsigned hidden = layout.hidden, depth = Own::deep * hidden, buffer = 8 * N * layout.pitch;
  const unsigned rows = Own::rows(layout);
  const unsigned part = whole<Own::blocks * Weights::depth>(depth) / Own::blocks;  // of k, or half of it in a stack
  const unsigned chunks = (stacked ? 2 : 1) * part / Weights::depth;
  const int64 cells = int64(layout.batch) * hidden;
  Team team;
  // Where there is no W_ih, nothing is read of it.
  const Weights weights{memory(), rows, chunks, layout.split,
                        Own::weights(mine.weight_hh, stacked ? mine.stack.weight_ih : mine.weight_hh, work, part)};
  S* const shown_to_all = again().shown;
  const int64 steps = again().steps;
  const bool reverse = again().reverse;
  const unsigned row = again().row;
  S* const shown = reinterpret_cast<S*>(memory() + Weights::bytes(rows, chunks, layout.split));
  typename Own::Sum sums{reinterpret_cast<T*>(shown + layout.buffers * buffer), rows, layout.split};

  __device__ __forceinline__ Block(const Runs<Run, Cells>& runs, unsigned* gave_up, const Layout& layout)
      : runs(runs), layout(layout), team(gave_up, layout.members) {}

  // What is asked for again where it is needed takes no registers meanwhile.
  __device__ __forceinline__ const Run& again() const { return runs.of[computed_anew(run)]; }
  static __device__ __forceinline__ char* memory() {
    extern __shared__ __align__(16) char of_block[];
    return of_block;
  }
  __device__ __forceinline__ void forward(bool keep);
  __device__ __forceinline__ void backward();

  // Sums over rows for layer normalisation, of so many numbers a cell.
  __device__ __forceinline__ auto row_sums_of(unsigned numbers) const {
    if constexpr (Cells::normed) return RowSums<N, T, Team>(sums.end(), numbers, layout, options.handed, options.epsilon);
    else return 0;
  }
};

// ---- forward

template <typename Run, typename S, typename Team, int M, int N, typename Cells>
__device__ __forceinline__ void Block<Run, S, Team, M, N, Cells>::forward(bool keep) {
  const auto row_sums = row_sums_of(4);
  if constexpr (Team::local) {
    const S* const h0 = mine.h + (reverse ? steps : 0) * cells + int64(work.first_sequence) * hidden;
    const int64 first = Cells::plain || !reverse ? 0 : max(work.active_steps(mine.lengths, steps), 1ll) - 1;
    fill(shown + buffer, (layout.buffers - 1) * buffer);
    for (unsigned i = threadIdx.x; i < buffer; i += blockDim.x) {
      const unsigned column = i / layout.pitch, k = i % layout.pitch;
      const bool inside = column < work.sequences && k < hidden;
      const Spot spot{first, layout.batch, hidden, work.first_sequence + column, k};
      reinterpret_cast<Bits<S>*>(shown)[i] =
          inside ? present(options.seen(h0[int64(column) * hidden + k], spot)) : Bits<S>(0);
    }
    if constexpr (Team::conceals) {
      __syncthreads();
      for (unsigned n = 1; n < layout.buffers; ++n) conceal_all(shown + n * buffer, work.sequences, hidden, layout.pitch);
      if constexpr (Cells::normed) row_sums.conceal();
      team.meet();  // others write here from the first step on
    }
  }

  T state[CELLS];
  const int64 active_steps = work.active_steps(mine.lengths, steps);
  unsigned given = 0;  // buffer of the h to multiply
  for (int64 step = 0; step < steps; ++step) {
    const int64 t = reverse ? steps - 1 - step : step, before = reverse ? t + 1 : t, after = reverse ? t : t + 1;
    const int64 number = reverse ? active_steps - 1 - t : t;  // of the active step
    const bool active = t < active_steps, others_follow = active && number + 1 < active_steps;
    const int64 following = step + 1 == steps ? t : reverse ? t - 1 : t + 1;
    const unsigned next_given = given + 1 < layout.buffers ? given + 1 : 0;
    for (unsigned tile = 0; tile < work.sequences; tile += 8 * N) {
      Gates<T> gates[CELLS];
      typename Cells::Ahead ahead[CELLS];
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {  // loads that need not wait for others
        const Place place(work, tile, n);
        if (!place.inside) continue;
        const int64 line = stacked ? 0 : t * layout.batch + place.sequence;
        const S* const from = (stacked ? again().stack.bias : again().z) + line * 4 * hidden;
        gates[n] = load_gates<T>(from + work.first_unit + place.unit, hidden);
        if (step == 0 || !work.one_tile()) state[n] = again().c[(keep ? before : 0) * cells + place.cell];
        ahead[n] = options.ahead_forward(place.spot(work, t), again().h + before * cells + place.cell);
      }
      if (active) {
        if (tile == 0) __syncthreads();  // the sums are read; h is there, if this block is alone
        if constexpr (Team::local) {
          const SharedColumns<S, Team::conceals> columns{shown + given * buffer, layout.pitch, team.patience()};
          weights.add(columns, rows, sums);
        } else {
          const S* const start = shown_to_all + (before * layout.batch + work.first_sequence + tile) * row;
          const AwaitedColumns<S> columns{start, work.sequences - tile, row, team.patience()};
          weights.add(columns, rows, sums);
        }
        __syncthreads();
        if (Team::conceals && layout.buffers == 2) {
          conceal_all(shown + given * buffer, work.sequences, hidden, layout.pitch);
          __syncthreads();
        }
      }
      T fresh[CELLS];  // c with layer normalisation, before its moments are there
      if constexpr (Cells::normed) {
        if (active) {
#pragma unroll
          for (int n = 0; n < CELLS; ++n) {
            const Place place(work, tile, n);
            if (!place.inside) continue;
            T x[4] = {};
            sums.template add_to<4>({x, x + 1, x + 2, x + 3}, place.column, place.unit, layout.share);
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) row_sums.at(layout, place, gate) = x[gate];
          }
          row_sums.moments(team, work, 0, 4, steps, t, tile);
#pragma unroll
          for (int n = 0; n < CELLS; ++n) {
            const Place place(work, tile, n);
            if (!place.inside) continue;
            T x[4];
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) x[gate] = row_sums.at(layout, place, gate);
            options.gates_forward(place.spot(work, t), {x[0], x[1], x[2], x[3]}, row_sums.first(place),
                                  row_sums.second(place), !again().lengths || t < again().lengths[place.sequence], gates[n], state[n],
                                  fresh[n]);
            row_sums.at(layout, place, 0) = fresh[n];
          }
          row_sums.moments(team, work, 1, 1, steps, t, tile);
        }
      }
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {
        const Place place(work, tile, n);
        if (!place.inside) continue;
        S output;
        if (again().lengths && t >= again().lengths[place.sequence]) {
          output = again().h[before * cells + place.cell];
          options.pass(place.spot(work, t), state[n]);
        } else {
          Gates<T>& one = gates[n];
          T out;
          if constexpr (Cells::normed) {
            options.finish(place.spot(work, t), ahead[n], one, fresh[n], row_sums.first(place), row_sums.second(place),
                           state[n], out);
          } else {
            sums.template add_to<4>({&one.i, &one.f, &one.g, &one.o}, place.column, place.unit, layout.share);
            options.forward(place.spot(work, t), ahead[n], one, state[n], out);
          }
          output = S(out);
        }
        // First what others wait for.
        const unsigned unit = work.first_unit + place.unit;
        const S seen = options.seen(output, place.spot(work, following));
        S* const here = shown_to_all + (after * layout.batch + place.sequence) * row + unit;
        if (!Team::local) publish(here, seen);
        if (others_follow)
          team.give(shown + next_given * buffer + place.column * layout.pitch + unit, seen, layout.members);
        if (Team::local || shown_to_all != again().h) again().h[after * cells + place.cell] = output;
        if (keep && (!again().lengths || t < again().lengths[place.sequence]))
          store_gates(again().z + (t * layout.batch + place.sequence) * 4 * hidden + unit, hidden, gates[n]);
        if (keep || step + 1 == steps || !work.one_tile()) again().c[(keep ? after : 0) * cells + place.cell] = state[n];
        if constexpr (stackable<Team, Cells>) {
          if (const int64 next = again().stack.next) {
            const S* const factors = again().stack.factors;
            if (factors) output = S(T(output) * T(factors[t * cells + place.cell]));
            publish(here + next, output);
          }
        }
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

template <typename S, typename Team, int M, int N, template <typename> class Cells = Plain>
__global__ void __launch_bounds__(THREADS, 1)
    sequence_forward(const __grid_constant__ Runs<Forward<S>, Cells<S>> runs,
                     unsigned* gave_up,  // (all teams,) zeros, for Grid with a watchdog
                     int keep, const __grid_constant__ Layout layout) {
  Block<Forward<S>, S, Team, M, N, Cells<S>>(runs, gave_up, layout).forward(keep);
}

// The same in clusters of so many blocks.
template <typename S, int Members, int M, int N, template <typename> class Cells = Plain>
__global__ void OF_CLUSTER(Members) __launch_bounds__(THREADS, 1)
    sequence_forward_cluster(const __grid_constant__ Runs<Forward<S>, Cells<S>> runs, unsigned* gave_up, int keep,
                             const __grid_constant__ Layout layout) {
  Block<Forward<S>, S, Cluster, M, N, Cells<S>>(runs, gave_up, layout).forward(keep);
}

// ---- backward

template <typename Run, typename S, typename Team, int M, int N, typename Cells>
__device__ __forceinline__ void Block<Run, S, Team, M, N, Cells>::backward() {
  const auto row_sums = row_sums_of(2);
  const unsigned rank = blockIdx.x % Own::blocks;  // of those that multiply together
  if constexpr (Team::joint) {
    if (threadIdx.x == 0) sums.mailbox.open();
    team.arrive();
  }
  if constexpr (Team::local) {
    fill(shown, layout.buffers * buffer);
    if constexpr (Team::conceals) {
      __syncthreads();
      for (unsigned n = 0; n < layout.buffers; ++n) conceal_all(shown + n * buffer, work.sequences, depth, layout.pitch);
      if constexpr (Cells::normed) row_sums.conceal();
    }
    team.meet();  // others write here from the first step on
  }

  const int64 active_steps = work.active_steps(mine.lengths, steps);
  T from_h[CELLS], from_c[CELLS];    // dh of a sequence that has no such step, dc
  unsigned given = layout.buffers - 1;  // buffer of the dz to multiply
  for (int64 step = 0; step <= steps; ++step) {
    const bool last = step == steps;  // only the product, for the initial state
    const int64 t = reverse ? step : steps - 1 - step, before = reverse ? t + 1 : t, after = reverse ? t : t + 1;
    const int64 shown_step = reverse ? min(t, active_steps) - 1 : t + 1;  // the one whose dz the team shows
    const bool active = !last && t < active_steps;
    const bool multiplies = (active || last) && (stacked || (shown_step >= 0 && shown_step < active_steps));
    const unsigned next_given = given + 1 < layout.buffers ? given + 1 : 0;
    for (unsigned tile = 0; tile < work.sequences; tile += 8 * N) {
      Gates<T> saved[CELLS];
      T c_before[CELLS], c_after[CELLS], outside[CELLS], factor[CELLS];
      typename Cells::Ahead ahead[CELLS];
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {  // loads that need not wait for others
        const Place place(work, tile, n);
        if (!place.inside) continue;
        if (step == 0 || !work.one_tile()) from_h[n] = again().dh[place.cell], from_c[n] = again().dc[place.cell];
        if (last) continue;
        const int64 line = t * layout.batch + place.sequence;
        saved[n] = load_gates<T>(again().gates + line * depth + work.first_unit + place.unit, hidden);
        c_before[n] = again().c[before * cells + place.cell];
        c_after[n] = options.new_c(place.spot(work, t), again().c + after * cells + place.cell);
        outside[n] = again().dy ? T(again().dy[line * hidden + work.first_unit + place.unit]) : T(0);
        factor[n] = stacked && again().stack.factors ? T(again().stack.factors[t * cells + place.cell]) : T(1);
        ahead[n] = options.ahead_backward(place.spot(work, t));
      }
      if (multiplies) {
        if (tile == 0 && !Team::joint) __syncthreads();  // the sums are read; dz is there, if this block is alone
        if constexpr (Team::local) {
          const SharedColumns<S, Team::conceals> columns{shown + given * buffer, layout.pitch, team.patience()};
          weights.add(columns, rows, sums);
        } else {
          const S* const start = shown_to_all + (shown_step * layout.batch + work.first_sequence + tile) * row;
          const AwaitedColumns<S> columns{start, work.sequences - tile, row, team.patience()};
          if constexpr (Team::joint) {
            weights.add(gathered<S, N>(columns, shown, layout.pitch, rank * part, part), rows, sums);
            sums.wait();
          } else {
            weights.add(columns, rows, sums);
          }
        }
        if (!Team::joint) __syncthreads();
        if (Team::conceals && layout.buffers == 2) {
          conceal_all(shown + given * buffer, work.sequences, depth, layout.pitch);
          __syncthreads();
        }
      }
      bool read = true;  // the sums are: see joint.cuh
      // What arrives at h of a product's gradient.
      const auto arrive = [&](const Place& place, T& from_h) {
        T sum = T(0);
        sums.template add_to<1>({&sum}, place.column, place.unit, 0);
        from_h += options.seen(sum, place.spot(work, shown_step));
      };
      if constexpr (Cells::normed) {
        if (active) {
          T d_o[CELLS];
#pragma unroll
          for (int n = 0; n < CELLS; ++n) {
            const Place place(work, tile, n);
            if (!place.inside) continue;
            if (multiplies) arrive(place, from_h[n]);
            T dy_c = T(0);
            if (!again().lengths || t < again().lengths[place.sequence])
              dy_c = options.output_backward(place.spot(work, t), ahead[n], saved[n], c_after[n], outside[n], from_h[n],
                                             d_o[n]);
            row_sums.at(layout, place, 0) = dy_c;
            row_sums.at(layout, place, 1) = dy_c * (c_after[n] - ahead[n].c_mean) * ahead[n].c_scale;
          }
          row_sums.means(team, work, 0, 1, steps, t, tile);
#pragma unroll
          for (int n = 0; n < CELLS; ++n) {
            const Place place(work, tile, n);
            if (!place.inside) continue;
            const Spot spot = place.spot(work, t);
            if (!again().lengths || t < again().lengths[place.sequence]) {
              options.gates_backward(spot, ahead[n], saved[n], c_before[n], c_after[n], row_sums.at(layout, place, 0),
                                     row_sums.first(place), row_sums.second(place), d_o[n], from_c[n]);
              const Gates<T> dy = options.times_gain(spot, saved[n]), &y = ahead[n].y;
              row_sums.at(layout, place, 0) = dy.i + dy.f + dy.g + dy.o;
              row_sums.at(layout, place, 1) = dy.i * y.i + dy.f * y.f + dy.g * y.g + dy.o * y.o;
            }
          }
          row_sums.means(team, work, 1, 4, steps, t, tile);
        }
      }
#pragma unroll
      for (int n = 0; n < CELLS; ++n) {
        const Place place(work, tile, n);
        if (!place.inside) continue;
        if constexpr (stackable<Team, Cells>) {
          const unsigned own_parts = stacked ? layout.split / 2 : layout.split;
          if (multiplies) sums.template add_some_to<1>({&from_h[n]}, place.column, place.unit, 0, 0, own_parts);
          if (multiplies && stacked && !last) {
            T from_above = T(0);
            sums.template add_some_to<1>({&from_above}, place.column, place.unit, 0, own_parts, layout.split);
            from_h[n] += from_above * factor[n];
          }
        } else if constexpr (Cells::plain) {
          if (multiplies) sums.template add_to<1>({&from_h[n]}, place.column, place.unit, 0);
          read = read && !is_missing(from_h[n]);
        } else if (multiplies && (last || !Cells::normed)) {
          arrive(place, from_h[n]);
        }
        if (!last) {
          Gates<T> one = {T(0), T(0), T(0), T(0)};
          if (!again().lengths || t < again().lengths[place.sequence]) {
            one = saved[n];
            if constexpr (!Cells::normed)
              options.backward(place.spot(work, t), ahead[n], one, c_before[n], c_after[n], outside[n], from_h[n],
                               from_c[n]);
          }
          const int64 line = t * layout.batch + place.sequence;
          const unsigned unit = work.first_unit + place.unit;
          if constexpr (Cells::normed) {  // W_hh is multiplied by another gradient
            store_gates(again().dz + line * depth + unit, hidden, one);
            if (!again().lengths || t < again().lengths[place.sequence])
              one = options.product_backward(place.spot(work, t), ahead[n], one, row_sums.first(place),
                                             row_sums.second(place));
          }
          // First what others wait for.
          if constexpr (!Team::local) {
            S* const here = shown_to_all + line * row + unit;
            publish_gates(here, hidden, one);
            if constexpr (stackable<Team, Cells>) {
              if (const int64 next = again().stack.next) publish_gates(here + next, hidden, one);
            }
          }
          if (active) {
            S* const here = shown + next_given * buffer + place.column * layout.pitch + unit;
            team.give(here, S(one.i), layout.members);
            team.give(here + hidden, S(one.f), layout.members);
            team.give(here + 2 * hidden, S(one.g), layout.members);
            team.give(here + 3 * hidden, S(one.o), layout.members);
          }
          S* const multiplied = options.multiplied(again().dz);
          if (Team::local || shown_to_all != multiplied) store_gates(multiplied + line * depth + unit, hidden, one);
        }
        if (last || !work.one_tile()) again().dh[place.cell] = from_h[n], again().dc[place.cell] = from_c[n];
      }
      if constexpr (Team::joint) {
        if (multiplies) team.arrive_after(read);
      } else {
        if (tile + 8 * N < work.sequences) __syncthreads();  // the sums are read
      }
    }
    if constexpr (Team::local) {
      if (Team::conceals && layout.buffers == 3 && multiplies)
        conceal_all(shown + given * buffer, work.sequences, depth, layout.pitch);
      if (active) given = next_given;
    }
  }
  if constexpr (Team::conceals) team.meet();  // a block stays while another may write to it
  if constexpr (Team::joint) team.wait();
}

template <typename S, typename Team, int M, int N, template <typename> class Cells = Plain>
__global__ void __launch_bounds__(THREADS, 1)
    sequence_backward(const __grid_constant__ Runs<Backward<S>, Cells<S>> runs, unsigned* gave_up,
                      const __grid_constant__ Layout layout) {
  Block<Backward<S>, S, Team, M, N, Cells<S>>(runs, gave_up, layout).backward();
}

template <typename S, int Members, int M, int N, template <typename> class Cells = Plain>
__global__ void OF_CLUSTER(Members) __launch_bounds__(THREADS, 1)
    sequence_backward_cluster(const __grid_constant__ Runs<Backward<S>, Cells<S>> runs, unsigned* gave_up,
                              const __grid_constant__ Layout layout) {
  Block<Backward<S>, S, Cluster, M, N, Cells<S>>(runs, gave_up, layout).backward();
}
