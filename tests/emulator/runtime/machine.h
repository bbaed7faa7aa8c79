// The state of one launch: threads in warps in blocks in clusters.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../include/runtime.h"
#include "checker.h"
#include "fiber.h"
#include "launch_config.h"

namespace emulator {

struct Block;
struct Cluster;
struct Warp;

// One cp.async.
struct Copy {
  void* to;
  const void* from;
  unsigned bytes, from_bytes;
  int group;
  const void* pc;
};

enum class State { runnable, waiting, finished };

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  Warp* warp = nullptr;
  Index index{};
  uint32_t number = 0;  // in the grid
  int lane = 0;
  State state = State::runnable;
  uint32_t priority = 0;

  // While it waits: for what, where, and what it shall get.
  const char* awaits = "";
  Site site{};                     // of __syncthreads
  const void* waits_at = nullptr;  // of all others, and where it was taken off while it ran
  int barrier_result = 0;

  bool arrived_at_cluster = false;
  uint32_t cluster_phase = 0;  // of that arrival

  std::vector<Copy> copies;  // by cp.async, not waited for
  int copy_group = 0;        // that is not committed

  ThreadClock clock;  // check mode
};

// Lanes of a warp that came to one operation and wait for the others in the mask.
struct Rendezvous {
  struct Guest {
    Thread* thread;
    const void* value;
    void* values;
    unsigned* lanes;
  };
  WarpOperation operation{};
  unsigned mask = 0, arrived = 0;
  size_t size = 0;
  std::vector<Guest> guests;
  JointClock clock;
};

struct Warp {
  unsigned live = 0;  // lanes that have not returned
  std::vector<Rendezvous> meetings;
};

struct Block {
  Cluster* cluster = nullptr;
  Index index{}, index_in_cluster{};
  uint32_t rank_in_cluster = 0;
  uint32_t number = 0;  // in the grid
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  uint32_t live = 0;  // threads that have not returned
  uint32_t priority = 0;
  char* shared = nullptr;

  // __syncthreads
  std::vector<Thread*> at_barrier;
  Site barrier_site{};
  int barrier_sum = 0;
  JointClock barrier_clock;

  struct Shadow* shadow = nullptr;  // check mode
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  uint32_t live = 0;  // threads that have not returned

  uint32_t arrived = 0, phase = 0;
  std::vector<Thread*> waiting;
  JointClock barrier_clock;  // of the phase that is under way
  JointClock last_phase_clock;
};

struct Machine {
  const LaunchConfig* config = nullptr;
  void (*kernel)() = nullptr;
  std::vector<std::unique_ptr<Cluster>> clusters;  // that run now
  uint32_t threads_per_block = 0, threads_in_grid = 0;
  size_t dynamic_shared = 0;  // where it begins in a block's shared memory
  bool failed = false;
};

// One launch at a time; everything runs on one thread of the operating system.
extern Machine machine;
extern Thread* current;  // null while the scheduler runs

// Where the running thread called the runtime, for reports; null when the message itself says where.
extern const void* calling_pc;

uint32_t offset_in_library(const void*);
bool is_in_library(const void*);

// Set to run down to the next switch by each step (basic block or memory access) of the instrumented kernel.
extern int64_t steps_left;
extern bool in_atomic;

// ---- scheduler.cpp

void make_runnable(Thread&);
void wait(const char* what, Site = {});  // until make_runnable
void give_way();                         // to any other thread
void note_progress();                    // something happened that a waiting thread might wait for
[[noreturn]] void fail(const char* kind, const char* format, ...) __attribute__((format(printf, 2, 3)));
void report_after_block(const Block&, const char* kind, const char* format, ...) __attribute__((format(printf, 3, 4)));
inline void step() {
  if (--steps_left < 0 && current && !in_atomic) give_way();
}

// ---- instrumentation.cpp

void must_be_aligned(const volatile void*, size_t);

// ---- barriers.cpp

void thread_leaves(Thread&);

// ---- asynchronous.cpp

bool stores_under_way();  // by st.async
void deliver_store(uint32_t random);
void forget_barriers(const Block&);
void forget_stores();

// ---- faults.cpp

// While one lives, an access to memory that isn't there ends the launch with a report, not the process.
class FaultReports {
 public:
  FaultReports();
  ~FaultReports();
};

// ---- shared_memory.cpp

void allocate_shared(Block&);
void poison_shared(Block&);  // when its threads have returned
void free_shared(Block&);
constexpr size_t dynamic_shared_capacity = 227 << 10;  // what sm_90 has for a block
size_t shared_bytes_of_block();                        // all that may be: static, and dynamic up to that capacity
size_t find_dynamic_shared();                          // while no thread runs

}  // namespace emulator
