// What runs: a launch of clusters of blocks of warps; and the lanes' registers.
#pragma once
#include <bit>
#include <cmath>
#include <type_traits>

#include "program.h"

struct Block;
class Order;
class Run;

struct Warp {
  Block* block = nullptr;
  int first = 0;                  // thread of the block that is lane 0
  Mask alive = 0, waiting = 0;    // waiting: at an instruction where others are to come
  std::vector<u64> rows;          // registers, then constants: 32 lanes each
  std::vector<char> local;        // local memory
  int pc[LANES];
  u32 cluster_phase[LANES] = {};  // of the cluster's barrier, at the lane's last arrival
  Mask arrived = 0;               // have come to the cluster's barrier and not waited yet
  int leader = -1;                // the lane that goes on first in the next turn; -1: the one farthest behind

  u64* row(Row n) { return rows.data() + std::size_t(n) * LANES; }
};

struct Cluster {
  std::vector<Block*> blocks;
  int alive = 0, arrived = 0;
  u32 phase = 0;
};

struct Block {
  Run* run = nullptr;
  Cluster* cluster = nullptr;
  u32 number = 0, rank = 0;
  char* shared = nullptr;
  std::size_t shared_bytes = 0;
  std::vector<Warp> warps;
  int alive = 0;
  int arrived[16] = {}, expected[16] = {};  // threads at each of the 16 barriers, and all; 0: of the block
};

struct Launch {
  Kernel* kernel;
  u32 grid[3], block[3];
  std::size_t dynamic_shared;
  bool cooperative;
  int cluster;
  std::vector<char> parameters;
};

// counts.cpp: where counts are written to, null where they aren't asked for; of one instruction, what was executed
const char* counts_file();
struct Count {
  u64 warps = 0, lanes = 0;
  u64 memory = 0;  // sectors of global memory, or turns of the banks of shared memory
};

// run.cpp
class Run {
 public:
  const Launch& launch;
  u64 executed = 0, quiet = 0;  // instructions of warps: all, and those since something was last written
  std::unique_ptr<Order> order;

  explicit Run(const Launch& what);
  ~Run();
  void blocks(u32 first, u32 count);
  void tell_counts() const;  // counts.cpp

 private:
  const std::vector<Instruction>& code;
  u64 patience;  // the longest that `quiet` may get
  std::vector<Count> counts;  // by instruction; empty: not asked for

  void count(Warp&, const Instruction&, Mask);  // counts.cpp
  void until_done(std::vector<Block>&);
  bool turn(Warp&);
  Mask pick(Warp&, Mask ready, int& stop);
  bool go(Warp&, Mask group, int stop, int& left);
  Mask meet(Warp&, int pc);
  void arrive(Warp&, const Instruction&, Mask);
  void leave(Warp&, Mask);
  void release_barriers(Block&);
  void release_cluster(Cluster&);
  std::string places(const std::vector<Block>&) const;
};

void run(const Launch&);

// host/memory.cpp: a range of memory that a device may touch, or a Fault
void require_access(u64 address, std::size_t bytes, bool write, int device, const std::string& what);
void own(void* memory, std::size_t bytes, int device);
void disown(void* memory);

std::string place_of(u64 address);

// memory.cpp: some of what st.async sent comes, or all; whether anything did
bool come(Order&, bool all);

// together.cpp: threads wait at a barrier that combines their predicates; all get the result
void combine(Block&, int barrier);

// -- numbers in registers: a register is 64 bits, narrower numbers fill the low ones -------------------

inline float as_float(u64 bits) { return std::bit_cast<float>(u32(bits)); }
inline double as_double(u64 bits) { return std::bit_cast<double>(bits); }

// float with subnormal numbers taken for zero, as .ftz has it
struct Flushed {
  float value;
  Flushed(float x) : value(std::abs(x) < 0x1p-126f ? __builtin_copysignf(0, x) : x) {}
  operator float() const { return value; }
};

template <class T> T from_bits(u64 bits) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, Flushed>) return T(as_float(bits));
  else if constexpr (std::is_same_v<T, double>) return as_double(bits);
  else if constexpr (std::is_same_v<T, bool>) return bits & 1;
  else return T(bits);
}

template <class T> u64 to_bits(T x) {
  if constexpr (std::is_same_v<T, Flushed>) return to_bits(float(x));
  else if constexpr (std::is_same_v<T, float>) return x != x ? 0x7fffffff : std::bit_cast<u32>(x);  // one NaN only
  else if constexpr (std::is_same_v<T, double>) return std::bit_cast<u64>(x);
  else if constexpr (sizeof(T) == 1 && std::is_signed_v<T>) return u32(i32(x));  // a register has 16 bits at least
  else return u64(std::make_unsigned_t<std::conditional_t<std::is_same_v<T, bool>, u8, T>>(x));
}

template <class F> void for_lanes(Mask lanes, F f) {
  if (lanes == ~Mask(0)) {
    for (int lane = 0; lane < LANES; ++lane) f(lane);
  } else {
    for (; lanes; lanes &= lanes - 1) f(std::countr_zero(lanes));
  }
}

// The step that computes F of its operands, lane by lane.
template <auto F> struct Each {
  template <class R, class... A, std::size_t... N>
  static void apply(Warp& w, const Instruction& i, Mask lanes, R (*)(A...), std::index_sequence<N...>) {
    u64* out = w.row(i.out[0]);
    const u64* in[] = {w.row(i.in[N])...};
    for_lanes(lanes, [&](int lane) { out[lane] = to_bits<R>(F(from_bits<A>(in[N][lane])...)); });
  }
  template <class R, class... A> static void unpack(Warp& w, const Instruction& i, Mask lanes, R (*f)(A...)) {
    apply(w, i, lanes, f, std::index_sequence_for<A...>());
  }
  static void step(Warp& w, const Instruction& i, Mask lanes) { unpack(w, i, lanes, +F); }
};
template <auto F> constexpr Step each = &Each<F>::step;
