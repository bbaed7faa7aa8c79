// Who runs next. All threads of all resident clusters are fibers; the seed decides the order of clusters, how long a
// thread runs until another takes over, and which of the runnable ones it is.

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <string>

#include "machine.h"

// Where this library is loaded: symbols of the linker.
extern "C" const char __ehdr_start[] __attribute__((visibility("hidden"))),
    _end[] __attribute__((visibility("hidden")));

namespace emulator {

Machine machine;
Thread* current = nullptr;
int64_t steps_left = 0;
bool in_atomic = false;
const void* calling_pc = nullptr;

uint32_t offset_in_library(const void* p) { return (uint32_t)((const char*)p - __ehdr_start); }
bool is_in_library(const void* p) { return (const char*)p >= __ehdr_start && (const char*)p < _end; }

namespace {

// ---- order

class Random {  // xorshift64*
 public:
  void seed(uint64_t seed) {
    state_ = seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
    for (int i = 0; i < 8; ++i) (*this)();
  }
  uint32_t operator()() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return (uint32_t)(state_ * 0x2545f4914f6cdd1du >> 32);
  }
  uint32_t below(uint32_t n) { return (uint32_t)((uint64_t)(*this)() * n >> 32); }

 private:
  uint64_t state_ = 1;
} random_number;

// What a seed stands for: mistakes show under different orders, so each kind of order has its share of the seeds.
struct Policy {
  enum Favour { nobody, blocks, threads };
  uint32_t mean_slice;  // steps
  Favour favour;        // some run ahead as far as they can, others lag behind

  static Policy of_seed(uint64_t seed) {
    static const uint32_t slices[] = {200, 20, 2000, 5};
    return {slices[seed % 4], Favour(seed / 4 % 3)};
  }
} policy;

constexpr uint32_t middle_priority = 1u << 31;  // at the start all have a higher one
uint32_t lowest_priority = middle_priority;
uint32_t random_priority() { return middle_priority | random_number(); }

std::vector<Thread*> runnable;
void* scheduler_stack = nullptr;
StackPool stacks;
int64_t slice = 0;

// ---- hangs

uint64_t steps_without_progress = 0, steps_at_all = 0;
constexpr uint64_t longest_launch = 50;  // in step limits

void report(const char* kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

void report_list(const char* kind, const char* format, va_list arguments) {
  machine.failed = true;
  const LaunchConfig& config = *machine.config;
  if (config.message[0]) return;  // the first mistake counts
  snprintf(config.kind, 64, "%s", kind);
  const int length = vsnprintf(config.message, config.message_bytes, format, arguments);
  if (current && length >= 0 && (uint32_t)length < config.message_bytes) {
    const Index b = current->block->index, t = current->index;
    char where[40] = "";
    if (calling_pc) snprintf(where, sizeof where, "{pc %x}, ", offset_in_library(calling_pc));
    snprintf(config.message + length, config.message_bytes - length, " [%sblock (%u,%u,%u) thread (%u,%u,%u)]", where,
             b.x, b.y, b.z, t.x, t.y, t.z);
  }
}

void report(const char* kind, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  report_list(kind, format, arguments);
  va_end(arguments);
}

// Where the threads stand, those that wait at the same place counted together.
std::string where_threads_are() {
  struct Place {
    std::string text;
    int threads;
    Index block, thread;
  };
  std::vector<Place> places;
  for (auto& cluster : machine.clusters)
    for (auto& block : cluster->blocks)
      for (Thread& thread : block->threads) {
        if (thread.state == State::finished) continue;
        std::string text = thread.state == State::waiting ? thread.awaits : "run";
        if (thread.state == State::waiting && thread.site.file)
          text += std::string(" at ") + thread.site.file + ":" + std::to_string(thread.site.line);
        if (thread.waits_at) {
          char pc[20];
          snprintf(pc, sizeof pc, " at {pc %x}", offset_in_library(thread.waits_at));
          text += pc;
        }
        auto place = std::find_if(places.begin(), places.end(), [&](const Place& p) { return p.text == text; });
        if (place == places.end()) place = places.insert(places.end(), {text, 0, block->index, thread.index});
        ++place->threads;
      }
  std::string list;
  for (const Place& p : places) {
    char line[300];
    snprintf(line, sizeof line, "%s%d %s (first: block (%u,%u,%u) thread (%u,%u,%u))", list.empty() ? "" : "; ",
             p.threads, p.text.c_str(), p.block.x, p.block.y, p.block.z, p.thread.x, p.thread.y, p.thread.z);
    list += line;
  }
  return list;
}

size_t cluster_size_in_blocks() {
  const uint32_t* c = machine.config->cluster;
  return (size_t)c[0] * c[1] * c[2];
}
size_t clusters_in_grid() {
  const uint32_t* g = machine.config->grid;
  return (size_t)g[0] * g[1] * g[2] / cluster_size_in_blocks();
}

void report_stuck(const char* kind, const char* what) {
  const bool all = machine.config->cooperative || machine.clusters.size() == clusters_in_grid();
  report(kind, "%s: of the threads that have not returned, %s%s", what, where_threads_are().c_str(),
         all ? "" : "; the launch is not cooperative, so that blocks may wait for others that have not started");
}

// ---- switching

void draw_slice() { steps_left = slice = 1 + random_number.below(2 * policy.mean_slice); }

void to_scheduler() { emulator_switch_stack(&current->fiber.pointer, scheduler_stack); }

// The fiber is left where it is, never to go on.
[[noreturn]] void end_launch(const char* kind, const char* format, va_list arguments) {
  report_list(kind, format, arguments);
  to_scheduler();
  __builtin_trap();
}

uint64_t precedence(const Thread& thread) {
  switch (policy.favour) {
    case Policy::blocks:
      return thread.block->priority;
    case Policy::threads:
      return thread.priority;
    default:
      return 0;
  }
}

Thread& pick() {
  const uint32_t n = (uint32_t)runnable.size();
  uint32_t chosen = random_number.below(n);
  if (policy.favour != Policy::nobody) {  // the first of a few: nobody is starved for ever
    for (int tries = 0; tries < 6; ++tries) {
      const uint32_t other = random_number.below(n);
      if (precedence(*runnable[other]) > precedence(*runnable[chosen])) chosen = other;
    }
  }
  Thread* thread = runnable[chosen];
  runnable[chosen] = runnable.back();
  runnable.pop_back();
  return *thread;
}

void thread_main() {
  machine.kernel();
  current->state = State::finished;
  thread_leaves(*current);
  note_progress();
  to_scheduler();
  __builtin_trap();
}

// ---- blocks

Index unravel(uint32_t rank, const uint32_t (&size)[3]) {
  return {rank % size[0], rank / size[0] % size[1], rank / size[0] / size[1]};
}

void start_block(Cluster& cluster, Index first, uint32_t rank) {
  const LaunchConfig& config = *machine.config;
  cluster.blocks.push_back(std::make_unique<Block>());
  Block& block = *cluster.blocks.back();
  block.cluster = &cluster;
  block.rank_in_cluster = rank;
  const Index inside = block.index_in_cluster = unravel(rank, config.cluster);
  block.index = {first.x + inside.x, first.y + inside.y, first.z + inside.z};
  block.number = (block.index.z * config.grid[1] + block.index.y) * config.grid[0] + block.index.x;
  block.live = machine.threads_per_block;
  block.priority = random_priority();
  block.warps.resize((block.live + 31) / 32);
  block.threads.resize(block.live);
  allocate_shared(block);
  check::block_starts(block);
  for (uint32_t i = 0; i < block.live; ++i) {
    Thread& thread = block.threads[i];
    thread.block = &block;
    thread.warp = &block.warps[i / 32];
    thread.index = unravel(i, config.block);
    thread.number = block.number * machine.threads_per_block + i;
    thread.lane = (int)(i % 32);
    thread.warp->live |= 1u << thread.lane;
    thread.priority = random_priority();
    thread.fiber.prepare(stacks.take(), thread.number, thread_main);
    runnable.push_back(&thread);
  }
  cluster.live += block.live;
}

void start_cluster(uint32_t number) {
  const LaunchConfig& config = *machine.config;
  const uint32_t clusters[3] = {config.grid[0] / config.cluster[0], config.grid[1] / config.cluster[1],
                                config.grid[2] / config.cluster[2]};
  Index first = unravel(number, clusters);
  first = {first.x * config.cluster[0], first.y * config.cluster[1], first.z * config.cluster[2]};
  machine.clusters.push_back(std::make_unique<Cluster>());
  for (uint32_t rank = 0; rank < cluster_size_in_blocks(); ++rank) start_block(*machine.clusters.back(), first, rank);
}

void end_cluster(Cluster& cluster) {
  for (auto& block : cluster.blocks) {
    for (Thread& thread : block->threads) stacks.give_back(thread.fiber.stack);
    check::block_ends(*block);
    forget_barriers(*block);
    free_shared(*block);
  }
  machine.clusters.erase(std::find_if(machine.clusters.begin(), machine.clusters.end(),
                                      [&](const auto& c) { return c.get() == &cluster; }));
}

bool launch_is_valid() {
  const LaunchConfig& config = *machine.config;
  uint64_t blocks = 1, threads = 1, in_cluster = 1;
  for (int i = 0; i < 3; ++i) {
    blocks *= config.grid[i];
    threads *= config.block[i];
    in_cluster *= config.cluster[i];
    if (config.cluster[i] == 0 || config.grid[i] % config.cluster[i] != 0) {
      report("launch", "grid dimension %d, %u, is not a multiple of the cluster's, %u", i, config.grid[i],
             config.cluster[i]);
      return false;
    }
  }
  if (blocks == 0 || threads == 0 || threads > 1024 || config.block[2] > 64)
    report("launch", "%llu blocks of %llu threads; expected at least one, and at most 1024 threads in a block",
           (unsigned long long)blocks, (unsigned long long)threads);
  else if (config.grid[1] > 65535 || config.grid[2] > 65535)
    report("launch", "a grid of (%u,%u,%u) blocks; expected at most 65535 in y and z", config.grid[0], config.grid[1],
           config.grid[2]);
  else if (in_cluster > 16)
    report("launch", "clusters of %llu blocks; expected at most 16", (unsigned long long)in_cluster);
  else if (blocks * threads > 1u << 31)
    report("launch", "%llu threads are more than the emulator takes", (unsigned long long)(blocks * threads));
  else if (config.shared_bytes > dynamic_shared_capacity)
    report("launch", "%u bytes of dynamic shared memory; expected at most %zu", config.shared_bytes,
           dynamic_shared_capacity);
  machine.threads_per_block = (uint32_t)threads;
  machine.threads_in_grid = (uint32_t)(threads * blocks);
  return !machine.failed;
}

bool on_time() {
  steps_without_progress += (uint64_t)(slice - steps_left) + 1;
  steps_at_all += (uint64_t)(slice - steps_left) + 1;
  if (steps_without_progress > machine.config->step_limit) {
    report_stuck("hang", "threads run, but nothing happens that another one could wait for");
    return false;
  }
  if (steps_at_all / longest_launch > machine.config->step_limit) {
    report_stuck("hang", "the launch doesn't end");
    return false;
  }
  return true;
}

void run_threads() {
  const size_t count = clusters_in_grid();
  std::vector<uint32_t> to_start(count);
  for (size_t i = 0; i < count; ++i) to_start[i] = (uint32_t)i;
  for (size_t i = count; i > 1; --i) std::swap(to_start[i - 1], to_start[random_number.below((uint32_t)i)]);
  const size_t resident = machine.config->cooperative ? count : machine.config->resident_clusters;

  while (!machine.failed) {
    while (!to_start.empty() && machine.clusters.size() < resident) {
      start_cluster(to_start.back());
      to_start.pop_back();
    }
    if (stores_under_way() && (runnable.empty() || random_number.below(16) == 0)) {
      deliver_store(random_number());
      continue;
    }
    if (runnable.empty()) {
      if (!machine.clusters.empty()) report_stuck("deadlock", "no thread can run");
      return;
    }
    current = &pick();
    draw_slice();
    emulator_switch_stack(&scheduler_stack, current->fiber.pointer);
    Thread& thread = *current;
    calling_pc = nullptr;
    if (!machine.failed && !thread.fiber.stack.intact())
      report("stack overflow", "local variables take more than the %zu KB that a thread has here", Stack::bytes >> 10);
    current = nullptr;
    if (machine.failed || !on_time()) return;
    if (thread.state == State::finished && thread.block->live == 0) {
      poison_shared(*thread.block);
      if (thread.block->cluster->live == 0) end_cluster(*thread.block->cluster);
    }
  }
}

}  // namespace

// ---- what the rest of the runtime asks for

void make_runnable(Thread& thread) {
  thread.state = State::runnable;
  runnable.push_back(&thread);
}

void wait(const char* what, Site site) {
  current->state = State::waiting;
  current->awaits = what;
  current->site = site;
  current->waits_at = calling_pc;
  to_scheduler();
}

void give_way() {
  // Who is taken off comes last sooner or later, or else a thread that polls could keep away whom it waits for.
  if (random_number.below(4) == 0) current->priority = current->block->priority = --lowest_priority;
  current->waits_at = calling_pc;
  runnable.push_back(current);
  to_scheduler();
}

void note_progress() { steps_without_progress = 0; }

void pause() { give_way(); }

long long clock() { return (long long)(steps_at_all + (uint64_t)(slice - steps_left)); }

void fail(const char* kind, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  end_launch(kind, format, arguments);
}

void mistake(const char* kind, const char* format, ...) {
  calling_pc = __builtin_return_address(0);
  va_list arguments;
  va_start(arguments, format);
  end_launch(kind, format, arguments);
}

void report_after_block(const Block& block, const char* kind, const char* format, ...) {
  char message[300];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  report(kind, "%s [block (%u,%u,%u)]", message, block.index.x, block.index.y, block.index.z);
}

void refuse(const LaunchConfig& config, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  snprintf(config.kind, 64, "launch");
  vsnprintf(config.message, config.message_bytes, format, arguments);
  va_end(arguments);
}

bool run(const LaunchConfig& config, void (*kernel)()) {
  machine.config = &config;
  machine.kernel = kernel;
  machine.failed = false;
  runnable.clear();
  in_atomic = false;
  calling_pc = nullptr;
  machine.dynamic_shared = find_dynamic_shared();
  steps_without_progress = steps_at_all = 0;
  random_number.seed(config.seed);
  lowest_priority = middle_priority;
  policy = Policy::of_seed(config.seed);

  const unsigned rounding = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(rounding | 0x8040);  // subnormal floats are zero, as with CuPy's -ftz=true
  if (launch_is_valid()) {
    const FaultReports until_the_end;
    check::launch_starts();
    run_threads();
    while (!machine.clusters.empty()) end_cluster(*machine.clusters.back());
    forget_stores();
    check::launch_ends();
    stacks.release();
  }
  __builtin_ia32_ldmxcsr(rounding);
  current = nullptr;
  return !machine.failed;
}

Index thread_index() { return current->index; }
Index block_index() { return current->block->index; }
Index block_size() { return {machine.config->block[0], machine.config->block[1], machine.config->block[2]}; }
Index grid_size() { return {machine.config->grid[0], machine.config->grid[1], machine.config->grid[2]}; }
int lane() { return current->lane; }
Index cluster_index() { return current->block->index_in_cluster; }
Index cluster_size() { return {machine.config->cluster[0], machine.config->cluster[1], machine.config->cluster[2]}; }
unsigned cluster_rank() { return current->block->rank_in_cluster; }
unsigned cluster_blocks() { return (unsigned)cluster_size_in_blocks(); }
unsigned active_lanes() { return current->warp->live; }

}  // namespace emulator
