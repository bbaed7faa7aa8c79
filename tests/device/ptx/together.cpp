// What lanes do together: shuffles, votes, matrix products, barriers. A step is given all lanes that meet.
#include "half.h"
#include "machine.h"

namespace {

[[noreturn]] void fault(const std::string& what, const Instruction& i) { throw Fault(what + ": " + i.text); }

// shfl.sync d|p, a, b, c, members: c holds the last lane of a segment and, 8 bits up, which bits number segments.
template <class From> void shuffle(Warp& w, const Instruction& i, Mask lanes, From from) {
  u64 values[LANES], *result = w.row(i.out[0]);
  std::memcpy(values, w.row(i.in[0]), sizeof values);
  for_lanes(lanes, [&](int lane) {
    int b = int(w.row(i.in[1])[lane] & 31), c = int(w.row(i.in[2])[lane]), segments = c >> 8 & 31;
    int last = (lane & segments) | (c & 31 & ~segments), first = lane & segments;
    auto [source, valid] = from(lane, b, first, last, segments);
    if (!valid) source = lane;
    if (!(lanes >> source & 1)) fault("a shuffle reads a lane that takes no part", i);
    result[lane] = values[source];
    if (i.outs > 1) w.row(i.out[1])[lane] = valid;
  });
}

struct Source {
  int lane;
  bool valid;
};

void shuffle_butterfly(Warp& w, const Instruction& i, Mask lanes) {
  shuffle(w, i, lanes, [](int lane, int b, int, int last, int) { return Source{lane ^ b, (lane ^ b) <= last}; });
}
void shuffle_down(Warp& w, const Instruction& i, Mask lanes) {
  shuffle(w, i, lanes, [](int lane, int b, int, int last, int) { return Source{lane + b, lane + b <= last}; });
}
void shuffle_up(Warp& w, const Instruction& i, Mask lanes) {  // here c's lower bits name the first lane
  shuffle(w, i, lanes, [](int lane, int b, int, int last, int) { return Source{lane - b, lane - b >= last}; });
}
void shuffle_index(Warp& w, const Instruction& i, Mask lanes) {
  shuffle(w, i, lanes, [](int, int b, int first, int last, int segments) {
    int source = first | (b & ~segments);
    return Source{source, source <= last};
  });
}

template <class F> void vote(Warp& w, const Instruction& i, Mask lanes, F f) {
  Mask yes = 0;
  for_lanes(lanes, [&](int lane) { yes |= Mask(w.row(i.in[0])[lane] & 1) << lane; });
  for_lanes(lanes, [&](int lane) { w.row(i.out[0])[lane] = f(yes, lanes); });
}
void ballot(Warp& w, const Instruction& i, Mask lanes) {
  vote(w, i, lanes, [](Mask yes, Mask) { return u64(yes); });
}
void any(Warp& w, const Instruction& i, Mask lanes) {
  vote(w, i, lanes, [](Mask yes, Mask) { return u64(yes != 0); });
}
void all(Warp& w, const Instruction& i, Mask lanes) {
  vote(w, i, lanes, [](Mask yes, Mask lanes) { return u64(yes == lanes); });
}

void nothing(Warp&, const Instruction&, Mask) {}

// mma.sync m16n8: lane l holds rows l / 4 and l / 4 + 8 of A and D, column l / 4 of B, and columns 2 (l % 4) and the
// next of D; of A and B pairs of 16-bit numbers 2 (l % 4) and 8 further, or single numbers l % 4 and 4 further in TF32.
// Sums are rounded once at the end: tensor cores add in an order, and with a few bits, that NVIDIA doesn't tell.
template <int DEPTH, class Number> void multiply(Warp& w, const Instruction& i, Mask lanes, Number number) {
  if (lanes != ~Mask(0)) fault("mma by a warp that is not whole", i);
  double a[16][DEPTH], b[DEPTH][8];
  for (int lane = 0; lane < LANES; ++lane) {
    int group = lane / 4, place = lane % 4;
    for (int r = 0; r < 6; ++r) {
      u32 bits = u32(w.row(i.in[r])[lane]);
      bool of_a = r < 4;
      int row = group + (of_a ? 8 * (r & 1) : 0), block = of_a ? r >> 1 : r - 4;
      auto put = [&](int k, double value) { (of_a ? a[row][k] : b[k][row]) = value; };
      if constexpr (DEPTH == 16) {
        put(2 * place + 8 * block, number(bits & 0xffff));
        put(2 * place + 8 * block + 1, number(bits >> 16));
      } else {
        put(place + 4 * block, number(bits));
      }
    }
  }
  for (int lane = 0; lane < LANES; ++lane)
    for (int r = 0; r < 4; ++r) {
      int row = lane / 4 + 8 * (r >> 1), column = 2 * (lane % 4) + (r & 1);
      double sum = as_float(w.row(i.in[6 + r])[lane]);
      for (int k = 0; k < DEPTH; ++k) sum += a[row][k] * b[k][column];
      w.row(i.out[r])[lane] = to_bits(float(sum));
    }
}
void multiply_half(Warp& w, const Instruction& i, Mask lanes) {
  multiply<16>(w, i, lanes, [](u32 bits) { return half_to_float(u16(bits)); });
}
void multiply_bfloat(Warp& w, const Instruction& i, Mask lanes) {
  multiply<16>(w, i, lanes, [](u32 bits) { return bfloat_to_float(u16(bits)); });
}
void multiply_tf32(Warp& w, const Instruction& i, Mask lanes) {  // the lower bits are ignored
  multiply<8>(w, i, lanes, [](u32 bits) { return as_float(bits & ~u32(0x1fff)); });
}

Step meeting(const Opcode& op) {
  const std::string& name = op.base();
  if (op.whole == "bar.warp.sync") return nothing;
  if (name == "shfl" && op.has("sync"))
    return op.has("bfly") ? shuffle_butterfly : op.has("down") ? shuffle_down : op.has("up") ? shuffle_up : shuffle_index;
  if (name == "vote" && op.has("sync")) return op.has("ballot") ? ballot : op.has("any") ? any : op.has("all") ? all : nullptr;
  if (op.whole == "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32") return multiply_half;
  if (op.whole == "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") return multiply_bfloat;
  if (op.whole == "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32") return multiply_tf32;
  return nullptr;
}

// bar.red: what each thread gets, of how many said yes and how many there are.
void combined_or(Warp&, const Instruction&, Mask) {}
void combined_and(Warp&, const Instruction&, Mask) {}
void combined_count(Warp&, const Instruction&, Mask) {}

}  // namespace

void combine(Block& block, int barrier) {
  const auto& code = block.run->launch.kernel->code;
  u32 yes = 0, threads = 0;
  auto each_thread = [&](auto f) {
    for (Warp& w : block.warps)
      for_lanes(w.waiting, [&](int lane) {
        const Instruction& i = code[w.pc[lane]];
        if (i.kind == Kind::BARRIER && i.barrier == barrier && i.step) f(w, i, lane);
      });
  };
  each_thread([&](Warp& w, const Instruction& i, int lane) { yes += w.row(i.in[0])[lane] & 1, ++threads; });
  each_thread([&](Warp& w, const Instruction& i, int lane) {
    w.row(i.out[0])[lane] = i.step == combined_or ? yes > 0 : i.step == combined_and ? yes == threads : yes;
  });
}

bool together(const Opcode& op, Instruction& i) {
  set_order(op, i);
  const std::string& name = op.base();
  if (Step step = meeting(op)) {
    i.kind = Kind::WARP;
    i.step = step;
    if (name != "mma") i.members = i.in[i.ins - 1];
    return true;
  }
  if (name == "bar" || (name == "barrier" && !op.has("cluster"))) {
    if (!op.has("sync") && !op.has("red")) return false;
    i.kind = Kind::BARRIER;
    if (op.has("red")) i.step = op.has("or") ? combined_or : op.has("and") ? combined_and : combined_count;
    return true;
  }
  if (name == "barrier" && (op.has("arrive") || op.has("wait"))) {
    i.kind = op.has("arrive") ? Kind::CLUSTER_ARRIVE : Kind::CLUSTER_WAIT;
    return true;
  }
  return false;
}
