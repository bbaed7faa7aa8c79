// What touches memory: ld, st, atom, red, mapa, cvta, mbarrier, st.async. Every address is checked.
//
// A generic address is one of this process; so an address in shared memory has two forms, as on a GPU: generic, and
// an offset in the block's window. In the window of a cluster (mapa.shared::cluster) the upper 8 bits are rank + 1.
#include <algorithm>
#include <cmath>

#include "order.h"

namespace {

[[noreturn]] void fault(const std::string& what, const Instruction& i) { throw Fault(what + ": " + i.text); }

constexpr int RANK = 24;

char* shared(Warp& w, const Instruction& i, u64 address, std::size_t bytes) {
  Block* block = w.block;
  u32 at = u32(address);
  if (u32 rank = at >> RANK) {
    if (rank > block->cluster->blocks.size()) fault("shared memory of a block outside of the cluster", i);
    block = block->cluster->blocks[rank - 1];
    at &= (1u << RANK) - 1;
    if (!block->alive) fault("shared memory of a block that has exited", i);
  }
  if (at + bytes > block->shared_bytes)
    fault("shared memory out of bounds, " + std::to_string(at) + " of " + std::to_string(block->shared_bytes), i);
  return block->shared + at;
}

char* place(Warp& w, const Instruction& i, u64 address, std::size_t bytes, bool write) {
  Run& run = *w.block->run;
  if (write) run.quiet = 0;
  char* p = nullptr;
  switch (i.space) {
    case Space::SHARED: p = shared(w, i, address, bytes); break;
    case Space::PARAM: {
      auto& parameters = const_cast<std::vector<char>&>(run.launch.parameters);
      if (address + bytes > parameters.size()) fault("parameters out of bounds", i);
      p = parameters.data() + address;
      break;
    }
    case Space::LOCAL: p = reinterpret_cast<char*>(address); break;
    case Space::GENERIC: {
      p = reinterpret_cast<char*>(address);
      bool local = p >= w.local.data() && p + bytes <= w.local.data() + w.local.size();
      if (!local) require_access(address, bytes, write, run.launch.kernel->device, i.text);
    }
  }
  if (i.space != Space::PARAM && reinterpret_cast<u64>(p) % bytes) fault("misaligned address", i);
  return p;
}

// What has a place in the order of memory, if that is asked for.
Order* order_of(Warp& w, const Instruction& i) {
  return i.space == Space::GENERIC || i.space == Space::SHARED ? w.block->run->order.get() : nullptr;
}

template <bool ORDERED> void load_as(Warp& w, const Instruction& i, Mask lanes) {
  const u64* address = w.row(i.in[0]);
  for_lanes(lanes, [&](int lane) {
    const char* p = place(w, i, address[lane] + i.offset, i.size * i.count, false);
    for (int k = 0; k < i.count; ++k, p += i.size) {
      u64 value = 0;
      if constexpr (ORDERED) value = w.block->run->order->load(w, lane, i, p, i.size);
      else std::memcpy(&value, p, i.size);
      int unused = 64 - 8 * i.size;  // a signed number may be loaded into a wider register
      if (i.extends) value = u64(i64(value << unused) >> unused);
      w.row(i.out[k])[lane] = value;
    }
  });
}
void load(Warp& w, const Instruction& i, Mask lanes) {
  order_of(w, i) ? load_as<true>(w, i, lanes) : load_as<false>(w, i, lanes);
}

template <bool ORDERED> void store_as(Warp& w, const Instruction& i, Mask lanes) {
  const u64* address = w.row(i.in[0]);
  for_lanes(lanes, [&](int lane) {
    char* p = place(w, i, address[lane] + i.offset, i.size * i.count, true);
    for (int k = 0; k < i.count; ++k, p += i.size) {
      const u64& value = w.row(i.in[1 + k])[lane];
      if constexpr (ORDERED) w.block->run->order->store(w, lane, i, p, i.size, value);
      std::memcpy(p, &value, i.size);
    }
  });
}
void store(Warp& w, const Instruction& i, Mask lanes) {
  order_of(w, i) ? store_as<true>(w, i, lanes) : store_as<false>(w, i, lanes);
}

// atom and red: out, where there is one, is what was there.
template <auto F> struct Atomic {
  template <class T, class... A> static void unpack(Warp& w, const Instruction& i, Mask lanes, T (*)(T, A...)) {
    const u64 *address = w.row(i.in[0]), *first = w.row(i.in[1]), *second = w.row(i.in[i.ins - 1]);
    for_lanes(lanes, [&](int lane) {
      char* p = place(w, i, address[lane] + i.offset, sizeof(T), true);
      u64 old = 0;
      std::memcpy(&old, p, sizeof(T));
      u64 fresh;
      if constexpr (sizeof...(A) == 2)
        fresh = to_bits<T>(F(from_bits<T>(old), from_bits<T>(first[lane]), from_bits<T>(second[lane])));
      else
        fresh = to_bits<T>(F(from_bits<T>(old), from_bits<T>(first[lane])));
      if (Order* order = order_of(w, i)) order->update(w, lane, i, p, sizeof(T), fresh);
      std::memcpy(p, &fresh, sizeof(T));
      if (i.outs) w.row(i.out[0])[lane] = old;
    });
  }
  static void step(Warp& w, const Instruction& i, Mask lanes) { unpack(w, i, lanes, +F); }
};
template <auto F> constexpr Step atomic = &Atomic<F>::step;

template <class T> Step atomic_of(const Opcode& op) {
  if (op.has("add")) return atomic<[](T a, T b) { return T(a + b); }>;
  if (op.has("exch")) return atomic<[](T, T b) { return b; }>;
  if constexpr (std::is_integral_v<T>) {
    if (op.has("min")) return atomic<[](T a, T b) { return std::min(a, b); }>;
    if (op.has("max")) return atomic<[](T a, T b) { return std::max(a, b); }>;
    if (op.has("cas")) return atomic<[](T a, T expected, T b) { return a == expected ? b : a; }>;
    if (op.has("and")) return atomic<[](T a, T b) { return T(a & b); }>;
    if (op.has("or")) return atomic<[](T a, T b) { return T(a | b); }>;
    if (op.has("xor")) return atomic<[](T a, T b) { return T(a ^ b); }>;
  }
  return nullptr;
}

Step atomic_step(const Opcode& op) {
  const std::string& type = op.type();
  if (type == "u32" || type == "b32") return atomic_of<u32>(op);
  if (type == "s32") return atomic_of<i32>(op);
  if (type == "u64" || type == "b64") return atomic_of<u64>(op);
  if (type == "s64") return atomic_of<i64>(op);
  if (type == "f32") return atomic_of<float>(op);
  if (type == "f64") return atomic_of<double>(op);
  return nullptr;
}

// -- addresses ------------------------------------------------------------------------------------------

u64 in_window(Warp& w, const Instruction& i, u64 address) {
  u64 start = reinterpret_cast<u64>(w.block->shared);
  if (address < start || address >= start + w.block->shared_bytes) fault("no address in this block's shared memory", i);
  return address - start;
}

void same(Warp& w, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int lane) { w.row(i.out[0])[lane] = w.row(i.in[0])[lane]; });
}
void from_shared(Warp& w, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int lane) {
    w.row(i.out[0])[lane] = reinterpret_cast<u64>(w.block->shared) + u32(w.row(i.in[0])[lane]);
  });
}
void to_shared(Warp& w, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int lane) { w.row(i.out[0])[lane] = in_window(w, i, w.row(i.in[0])[lane]); });
}
u32 rank_of(Warp& w, const Instruction& i, int lane) {
  u32 rank = u32(w.row(i.in[1])[lane]);
  if (rank >= w.block->cluster->blocks.size()) fault("mapa: no block of that rank in the cluster", i);
  return rank;
}
void map_generic(Warp& w, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int lane) {
    u64 offset = in_window(w, i, w.row(i.in[0])[lane]);
    char* other = w.block->cluster->blocks[rank_of(w, i, lane)]->shared;
    w.row(i.out[0])[lane] = reinterpret_cast<u64>(other) + offset;
  });
}
// The compiler asks ahead for what may turn out not to be needed: a rank that isn't there faults where it is used.
void map_shared(Warp& w, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int lane) {
    u32 offset = u32(w.row(i.in[0])[lane]) & ((1u << RANK) - 1);
    w.row(i.out[0])[lane] = (std::min(u32(w.row(i.in[1])[lane]), 254u) + 1) << RANK | offset;
  });
}
void is_shared(Warp& w, const Instruction& i, Mask lanes) {
  u64 start = reinterpret_cast<u64>(w.block->shared);
  for_lanes(lanes, [&](int lane) { w.row(i.out[0])[lane] = w.row(i.in[0])[lane] - start < w.block->shared_bytes; });
}

// -- mbarrier -------------------------------------------------------------------------------------------

// As it lies in shared memory, where its form is nobody's business: arrivals that are still to come, bytes that are
// still to come (they may be told of later than they come: then it is negative), and the phases that are over.
struct Barrier {
  u8 expected, pending;
  i16 phase;
  i32 bytes;
};

template <class F> void with_barrier(Warp& w, const Instruction& i, char* p, F f) {
  w.block->run->quiet = 0;
  Barrier b;
  std::memcpy(&b, p, 8);
  f(b);
  if (b.pending == 0 && b.bytes == 0) {
    b.phase ^= 1, b.pending = b.expected;
    if (Order* order = order_of(w, i)) order->complete(p);
  }
  std::memcpy(p, &b, 8);
}

char* barrier_at(Warp& w, const Instruction& i, u64 address) {
  char* p = shared(w, i, address, 8);
  if (reinterpret_cast<u64>(p) % 8) fault("misaligned mbarrier", i);
  return p;
}

void barrier_init(Warp& w, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int lane) {
    u32 count = u32(w.row(i.in[1])[lane]);
    if (count == 0 || count > 255) fault("an mbarrier of more arrivals than are modelled", i);
    char* p = barrier_at(w, i, w.row(i.in[0])[lane] + i.offset);
    if (Order* order = order_of(w, i)) order->initialise(w, lane, i, p);
    with_barrier(w, i, p, [&](Barrier& b) { b = {u8(count), u8(count), 0, 0}; });
  });
}
// mbarrier.arrive, and with expect_tx: how many bytes will come is told before.
void barrier_arrive(Warp& w, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int lane) {
    char* p = barrier_at(w, i, w.row(i.in[0])[lane] + i.offset);
    if (Order* order = order_of(w, i)) order->arrive(w, lane, i, p);
    with_barrier(w, i, p, [&](Barrier& b) {
      if (b.pending == 0) fault("more arrivals at an mbarrier than it expects", i);
      if (i.ins > 1) b.bytes += i32(w.row(i.in[1])[lane]);
      --b.pending;
    });
  });
}
void barrier_try(Warp& w, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int lane) {
    const char* p = barrier_at(w, i, w.row(i.in[0])[lane] + i.offset);
    Barrier b;
    std::memcpy(&b, p, 8);
    bool done = (b.phase & 1) != (w.row(i.in[1])[lane] & 1);
    if (Order* order = order_of(w, i)) order->wait(w, lane, i, p, done);
    w.row(i.out[0])[lane] = done;
  });
}

void deliver(const Sent& sent) {
  Warp& w = *sent.warp;
  const Instruction& i = *sent.instruction;
  std::memcpy(shared(w, i, sent.to, 16), sent.words, 16);
  char* p = barrier_at(w, i, sent.barrier);
  if (Order* order = order_of(w, i)) order->come(sent, p);
  with_barrier(w, i, p, [&](Barrier& b) { b.bytes -= 16; });
}

// in: the address, four words, the mbarrier that counts them, in the same block as the address.
void store_asynchronously(Warp& w, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int lane) {
    Sent sent{&w, &i, w.row(i.in[0])[lane], w.row(i.in[5])[lane], {}, 0, 0};
    if (u32(sent.to) >> RANK != u32(sent.barrier) >> RANK) fault("data and mbarrier in different blocks", i);
    const char* p = shared(w, i, sent.to, 16);
    if (reinterpret_cast<u64>(p) % 16) fault("misaligned address", i);
    for (int k = 0; k < 4; ++k) sent.words[k] = u32(w.row(i.in[1 + k])[lane]);
    if (Order* order = order_of(w, i)) order->send(lane, sent, p, barrier_at(w, i, sent.barrier));
    else deliver(sent);
  });
}

void fence(Warp& w, const Instruction& i, Mask lanes) {
  if (Order* order = order_of(w, i)) for_lanes(lanes, [&](int lane) { order->fence(w, lane, i); });
}

void clock(Warp& w, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int lane) { w.row(i.out[0])[lane] = w.block->run->executed; });
}
void nothing(Warp&, const Instruction&, Mask) {}

// mov.b64 %rd, {%r1, %r2} and mov.b64 {%r1, %r2}, %rd: low parts first.
void pack(Warp& w, const Instruction& i, Mask lanes) {
  int bits = 8 * i.size / i.ins;
  for_lanes(lanes, [&](int lane) {
    u64 value = 0;
    for (int k = 0; k < i.ins; ++k) value |= (w.row(i.in[k])[lane] & (~u64(0) >> (64 - bits))) << (bits * k);
    w.row(i.out[0])[lane] = value;
  });
}
void unpack(Warp& w, const Instruction& i, Mask lanes) {
  int bits = 8 * i.size / i.outs;
  for_lanes(lanes, [&](int lane) {
    u64 value = w.row(i.in[0])[lane];
    for (int k = 0; k < i.outs; ++k) w.row(i.out[k])[lane] = value >> (bits * k) & (~u64(0) >> (64 - bits));
  });
}

int width(const std::string& type) {  // of u8, b32, f64, bf16
  std::size_t digits = type.find_first_of("0123456789");
  return digits == std::string::npos ? 0 : std::stoi(type.substr(digits)) / 8;
}

Step chosen(const Opcode& op, Instruction& i) {
  const std::string& base = op.base();
  if (base == "ld" || base == "ldu") return load;
  if (base == "st") return op.has("async") ? store_asynchronously : store;
  if (base == "atom" || base == "red") return atomic_step(op);
  if (base == "mbarrier") {
    if (op.has("init")) return barrier_init;
    if (op.has("arrive") && !op.has("drop")) return barrier_arrive;
    return (op.has("try_wait") || op.has("test_wait")) && op.has("parity") ? barrier_try : nullptr;
  }
  if (base == "mapa") return op.whole == "mapa.u64" ? map_generic : op.whole == "mapa.shared::cluster.u32" ? map_shared : nullptr;
  if (base == "cvta") {
    if (op.whole == "cvta.shared.u64") return from_shared;
    return op.whole == "cvta.to.shared.u64" ? to_shared : same;
  }
  if (base == "clock") return clock;
  if (op.whole == "isspacep.shared") return is_shared;
  if (base == "membar" || base == "fence") return fence;
  if (base == "nanosleep" || base == "prefetch") return nothing;
  if (base == "mov" && (i.ins > 1 || i.outs > 1)) return i.ins > 1 ? pack : unpack;
  return nullptr;
}

}  // namespace

bool access(const Opcode& op, Instruction& i) {
  i.step = chosen(op, i);
  if (!i.step) return false;
  bool shared = op.has("shared") || op.has("shared::cta") || op.has("shared::cluster");
  i.space = shared ? Space::SHARED : op.has("param") ? Space::PARAM : op.has("local") ? Space::LOCAL : Space::GENERIC;
  i.size = u8(width(op.type()));
  i.count = op.has("v4") ? 4 : op.has("v2") ? 2 : 1;
  i.extends = op.type()[0] == 's';
  set_order(op, i);
  return true;
}

bool come(Order& order, bool all) {
  std::vector<Sent> now = order.coming(all);
  for (const Sent& sent : now) deliver(sent);
  return !now.empty();
}
