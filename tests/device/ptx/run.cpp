// Who goes on when: lanes that stand at the same instruction go on together, until they part or a turn is over.
//
// Without a seed warps take turns in their order, and of a warp those lanes go on that are farthest behind, so that
// lanes which parted meet again. With GPU_LSTM_DEVICE_SEED in the environment the order of blocks and warps, which
// lanes go on and whether they part for no reason are random: what is right only in step shows.
#include <algorithm>
#include <cstdlib>
#include <random>

#include "order.h"

namespace {

constexpr int TURN = 2000, SHORT_TURN = 200;  // instructions; the shorter with an order of memory, where looking again takes long
constexpr u64 LONGEST_SILENCE = 30000000;  // instructions of all warps without a write: threads wait for ever
constexpr u64 SILENT_TURNS = 400;          // of each warp: the same with an order of memory, which takes longer

std::mt19937_64 generator;
bool seeded = false;

// At every launch: a seed begins anew where the environment has another one than at the launch before.
void read_seed() {
  static std::string known;
  const char* text = std::getenv("GPU_LSTM_DEVICE_SEED");
  seeded = text && *text;
  if (seeded && known != text) generator.seed(std::strtoull(text, nullptr, 10));
  known = seeded ? text : "";
}

u64 constant(const Constant& c, const Warp& w, int lane) {
  const Launch& l = w.block->run->launch;
  u32 thread = u32(w.first + lane), block = w.block->number;
  switch (c.what) {
    case Special::NUMBER: return c.number;
    case Special::DYNAMIC_SHARED: return l.kernel->dynamic_start();
    case Special::LOCAL_ADDRESS:
      return reinterpret_cast<u64>(w.local.data()) + lane * l.kernel->local_bytes + c.number;
    case Special::TID_X: return thread % l.block[0];
    case Special::TID_Y: return thread / l.block[0] % l.block[1];
    case Special::TID_Z: return thread / l.block[0] / l.block[1];
    case Special::NTID_X: return l.block[0];
    case Special::NTID_Y: return l.block[1];
    case Special::NTID_Z: return l.block[2];
    case Special::CTAID_X: return block % l.grid[0];
    case Special::CTAID_Y: return block / l.grid[0] % l.grid[1];
    case Special::CTAID_Z: return block / l.grid[0] / l.grid[1];
    case Special::NCTAID_X: return l.grid[0];
    case Special::NCTAID_Y: return l.grid[1];
    case Special::NCTAID_Z: return l.grid[2];
    case Special::LANE: return lane;
    case Special::WARP: return thread / LANES;
    case Special::CLUSTER_RANK: return w.block->rank;
    case Special::DYNAMIC_SHARED_SIZE: return l.dynamic_shared;
    case Special::MULTIPROCESSOR: return block;
  }
  return 0;
}

void start(Warp& w, Block& block, int first, int threads) {
  const Kernel& k = *block.run->launch.kernel;
  w.block = &block;
  w.first = first;
  w.alive = threads >= LANES ? ~Mask(0) : (Mask(1) << threads) - 1;
  std::fill(w.pc, w.pc + LANES, 0);
  w.local.assign(LANES * k.local_bytes, char(-1));
  w.rows.assign(std::size_t(k.registers) * LANES, 0xBADBADBADBADBAD);
  w.rows.reserve((k.registers + k.constants.size()) * LANES);
  for (const Constant& c : k.constants)
    for (int lane = 0; lane < LANES; ++lane) w.rows.push_back(constant(c, w, lane));
}

// Shared memory of a block, where a generic address finds it.
struct Shared {
  char* memory;
  Shared(std::size_t bytes, int device) {
    memory = static_cast<char*>(std::aligned_alloc(1024, (bytes + 1024) / 1024 * 1024));
    std::memset(memory, -1, bytes);
    own(memory, bytes, device);
  }
  Shared(const Shared&) = delete;
  ~Shared() {
    disown(memory);
    std::free(memory);
  }
};

}  // namespace

Run::Run(const Launch& what)
    : launch(what), code(what.kernel->code), patience(LONGEST_SILENCE), counts(counts_file() ? code.size() : 0) {
  const char* number = std::getenv("GPU_LSTM_DEVICE_ORDER");
  if (number && *number) order = std::make_unique<Order>(launch, std::strtoull(number, nullptr, 10));
}
Run::~Run() = default;

void Run::blocks(u32 first, u32 count) {
  u32 threads = launch.block[0] * launch.block[1] * launch.block[2];
  std::size_t bytes = launch.kernel->dynamic_start() + launch.dynamic_shared;
  std::vector<Cluster> clusters(count / launch.cluster);
  std::vector<Block> all(count);
  std::vector<std::unique_ptr<Shared>> memories;
  for (u32 n = 0; n < count; ++n) {
    Block& block = all[n];
    memories.push_back(std::make_unique<Shared>(bytes, launch.kernel->device));
    block.run = this;
    block.cluster = &clusters[n / launch.cluster];
    block.cluster->blocks.push_back(&block);
    block.cluster->alive += int(threads);
    block.number = first + n;
    block.rank = n % launch.cluster;
    block.shared = memories.back()->memory;
    block.shared_bytes = bytes;
    block.alive = int(threads);
    block.warps.resize((threads + LANES - 1) / LANES);
    for (u32 w = 0; w < block.warps.size(); ++w) start(block.warps[w], block, int(w * LANES), int(threads - w * LANES));
  }
  if (order) {
    order->begin(all);
    patience = std::min(LONGEST_SILENCE, SILENT_TURNS * SHORT_TURN * all.size() * all[0].warps.size());
  }
  until_done(all);
}

void Run::until_done(std::vector<Block>& all) {
  std::vector<Warp*> warps;
  for (Block& block : all)
    for (Warp& w : block.warps) warps.push_back(&w);
  while (true) {
    if (seeded) std::shuffle(warps.begin(), warps.end(), generator);
    bool any = false;
    for (Warp* w : warps) any |= turn(*w);
    if (order) any |= come(*order, !any);
    if (any) continue;
    for (Warp* w : warps)
      if (w->alive) throw Fault("deadlock in " + launch.kernel->name + places(all));
    return;
  }
}

// False: no lane could go on.
bool Run::turn(Warp& w) {
  bool any = false;
  int left = order ? SHORT_TURN : TURN;
  while (Mask ready = w.alive & ~w.waiting) {
    any = true;
    int stop;
    Mask group = pick(w, ready, stop);
    if (!go(w, group, stop, left)) break;
  }
  return any;
}

// Lanes that stand at the same instruction; `stop`: where others stand, whom they may meet.
Mask Run::pick(Warp& w, Mask ready, int& stop) {
  int leader = std::countr_zero(ready);
  if (seeded) {
    for (leader = int(generator() % LANES); !(ready >> leader & 1);) leader = (leader + 1) % LANES;
  } else if (w.leader >= 0) {
    for (leader = w.leader; !(ready >> leader & 1);) leader = (leader + 1) % LANES;
  } else {
    for_lanes(ready, [&](int lane) { leader = w.pc[lane] < w.pc[leader] ? lane : leader; });
  }
  w.leader = -1;
  Mask group = 0;
  stop = -1;
  for_lanes(ready, [&](int lane) {
    if (w.pc[lane] == w.pc[leader]) group |= Mask(1) << lane;
    else if (w.pc[lane] > w.pc[leader] && (stop < 0 || w.pc[lane] < stop)) stop = w.pc[lane];
  });
  if (seeded && generator() % 4 == 0) group &= Mask(generator()) | Mask(1) << leader;
  return group;
}

// Until the lanes part, wait, meet others or, false, have had their turn.
bool Run::go(Warp& w, Mask group, int stop, int& left) {
  int pc = w.pc[std::countr_zero(group)];
  Order* const order = this->order.get();
  const u64 patience = this->patience;
  auto stand = [&](Mask lanes, int at) { for_lanes(lanes, [&](int lane) { w.pc[lane] = at; }); };
  while (true) {
    if (left-- <= 0) {
      stand(group, pc);
      w.leader = (std::countr_zero(group) + 1) % LANES;  // others of the warp first: these may be waiting for them
      return false;
    }
    ++executed;
    if (++quiet > patience) throw Fault("no thread writes anything any more in " + launch.kernel->name);
    const Instruction& i = code[pc];
    Mask active = group;
    if (i.guard != NOWHERE) {
      const u64* guard = w.row(i.guard);
      for_lanes(group, [&](int lane) { active &= ~(Mask((guard[lane] & 1) == u64(i.unless)) << lane); });
    }
    if (!counts.empty()) count(w, i, active);
    if (active) {
      if (order) order->use(w, i, active);
      switch (i.kind) {
        case Kind::PLAIN: i.step(w, i, active); break;
        case Kind::CLUSTER_ARRIVE: arrive(w, i, active); break;
        case Kind::BRANCH:
          if (active == group) {
            pc = i.target - 1;
            break;
          }
          stand(active, i.target);
          stand(group & ~active, pc + 1);
          return true;
        case Kind::EXIT:
          stand(group & ~active, pc + 1);
          leave(w, active);
          return true;
        case Kind::CLUSTER_WAIT: {
          stand(group, pc + 1);
          stand(active, pc);
          if (active & ~w.arrived) throw Fault("a thread waits at the cluster's barrier and has not arrived");
          w.waiting |= active;
          release_cluster(*w.block->cluster);
          return true;
        }
        case Kind::WARP:
          stand(group, pc + 1);
          stand(active, pc);
          w.waiting |= active;
          if (meet(w, pc) == group) break;
          return true;
        case Kind::BARRIER:
          stand(group, pc + 1);
          stand(active, pc);
          w.waiting |= active;
          w.block->arrived[i.barrier] += std::popcount(active);
          w.block->expected[i.barrier] = int(i.offset);
          release_barriers(*w.block);
          return true;
      }
    }
    if (++pc == stop) {
      stand(group, pc);
      return true;
    }
  }
}

// Lanes wait at an instruction for the others that it names: those that are complete do it, and go on.
Mask Run::meet(Warp& w, int pc) {
  const Instruction& i = code[pc];
  Mask here = 0, met = 0;
  for_lanes(w.waiting, [&](int lane) { here |= Mask(w.pc[lane] == pc) << lane; });
  while (here) {
    int lane = std::countr_zero(here);
    Mask members = i.members == NOWHERE ? ~Mask(0) : Mask(w.row(i.members)[lane]);
    if (!(members >> lane & 1)) throw Fault("a lane that is not in its own mask: " + i.text);
    here &= ~(Mask(1) << lane);
    Mask present = members & (here | Mask(1) << lane);
    if (members & w.alive & ~present) continue;
    if (i.members != NOWHERE && i.members < launch.kernel->registers)
      for_lanes(present, [&](int other) {
        if (Mask(w.row(i.members)[other]) != members) throw Fault("lanes name different masks: " + i.text);
      });
    if (order && i.releases) {  // bar.warp.sync
      std::vector<u32> threads;
      for_lanes(present, [&](int other) { threads.push_back(order->number(w, other)); });
      order->meet(threads);
    }
    i.step(w, i, present);
    for_lanes(present, [&](int other) { ++w.pc[other]; });
    w.waiting &= ~present;
    here &= ~present;
    met |= present;
  }
  return met;
}

void Run::leave(Warp& w, Mask lanes) {
  Cluster& cluster = *w.block->cluster;
  int count = std::popcount(lanes);
  quiet = 0;
  w.alive &= ~lanes;
  w.block->alive -= count;
  if (order && !w.block->alive) order->end(*w.block);
  cluster.alive -= count;
  for_lanes(lanes & w.arrived, [&](int lane) { cluster.arrived -= w.cluster_phase[lane] == cluster.phase; });
  for_lanes(w.waiting, [&](int lane) {
    if (w.waiting >> lane & 1 && code[w.pc[lane]].kind == Kind::WARP) meet(w, w.pc[lane]);
  });
  release_barriers(*w.block);
  release_cluster(cluster);
}

void Run::release_barriers(Block& block) {
  for (int barrier = 0; barrier < 16; ++barrier) {
    int expected = block.expected[barrier] ? block.expected[barrier] : block.alive;
    if (!block.arrived[barrier] || block.arrived[barrier] < expected) continue;
    quiet = 0;
    block.arrived[barrier] = 0;
    combine(block, barrier);
    std::vector<u32> threads;
    const Instruction* common = nullptr;
    for (Warp& w : block.warps)
      for_lanes(w.waiting, [&](int lane) {
        const Instruction& i = code[w.pc[lane]];
        if (i.kind != Kind::BARRIER || i.barrier != barrier) return;
        if (order && !block.expected[barrier]) {
          if (u32(block.alive) != order->of_block) throw Fault("threads have exited, and others of their block come to " + i.text);
          if (common && common != &i) throw Fault("threads of a block come to barriers in different places: " + i.text);
          common = &i;
        }
        if (order) threads.push_back(order->number(w, lane));
        ++w.pc[lane];
        w.waiting &= ~(Mask(1) << lane);
      });
    if (order) order->meet(threads);
  }
}

void Run::arrive(Warp& w, const Instruction& i, Mask lanes) {
  Cluster& cluster = *w.block->cluster;
  if (lanes & w.arrived) throw Fault("a thread comes to the cluster's barrier twice and has not waited");
  w.arrived |= lanes;
  for_lanes(lanes, [&](int lane) {
    w.cluster_phase[lane] = cluster.phase;
    if (order) order->arrive(w, lane, i);
  });
  cluster.arrived += std::popcount(lanes);
  release_cluster(cluster);
}

void Run::release_cluster(Cluster& cluster) {
  if (cluster.arrived && cluster.arrived == cluster.alive) {  // threads that have exited count as arrived
    cluster.arrived = 0;
    ++cluster.phase;
    quiet = 0;
    if (order) order->complete(&cluster);
  }
  for (Block* block : cluster.blocks)
    for (Warp& w : block->warps)
      for_lanes(w.waiting, [&](int lane) {
        if (code[w.pc[lane]].kind != Kind::CLUSTER_WAIT || w.cluster_phase[lane] == cluster.phase) return;
        if (order) order->wait(w, lane);
        ++w.pc[lane];
        w.waiting &= ~(Mask(1) << lane);
        w.arrived &= ~(Mask(1) << lane);
      });
}

std::string Run::places(const std::vector<Block>& all) const {
  std::map<std::string, int> threads;
  for (const Block& block : all)
    for (const Warp& w : block.warps) for_lanes(w.alive, [&](int lane) { ++threads[code[w.pc[lane]].text]; });
  std::string text;
  for (const auto& [place, count] : threads) text += "\n  " + std::to_string(count) + " threads at " + place;
  return text;
}

void run(const Launch& launch) {
  read_seed();
  u32 count = launch.grid[0] * launch.grid[1] * launch.grid[2], at_once = launch.cooperative ? count : launch.cluster;
  std::vector<u32> firsts;
  for (u32 first = 0; first < count; first += at_once) firsts.push_back(first);
  if (seeded) std::shuffle(firsts.begin(), firsts.end(), generator);
  Run run(launch);
  for (u32 first : firsts) run.blocks(first, at_once);
  run.tell_counts();
}
