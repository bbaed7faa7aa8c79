// cp.async, mbarrier, st.async.

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "machine.h"

namespace emulator {

// ---- cp.async: copied when waited for

void copy_async(void* shared, const void* global, unsigned bytes, unsigned from_bytes) {
  calling_pc = __builtin_return_address(0);
  must_be_aligned(shared, bytes);
  must_be_aligned(global, bytes);
  current->copies.push_back({shared, global, bytes, std::min(from_bytes, bytes), current->copy_group, calling_pc});
}

void copy_async_commit() { ++current->copy_group; }

void copy_async_wait(int groups_under_way) {
  std::vector<Copy> left;
  for (const Copy& copy : current->copies) {
    if (copy.group >= current->copy_group - groups_under_way) {
      left.push_back(copy);
      continue;
    }
    if (copy.from_bytes) check::access(copy.from, copy.from_bytes, Access::load, false, copy.pc);
    check::access(copy.to, copy.bytes, Access::store, false, copy.pc);
    std::memset(copy.to, 0, copy.bytes);
    std::memcpy(copy.to, copy.from, copy.from_bytes);
  }
  current->copies = std::move(left);
  give_way();
}

// ---- mbarrier

namespace {

struct MemoryBarrier {
  unsigned count, pending;  // arrivals, of each phase and still missing
  int64_t bytes = 0;        // expected and not arrived
  unsigned phase = 0;
  std::vector<Thread*> waiting;
  JointClock clock, last_phase_clock;
};

std::unordered_map<const uint64_t*, MemoryBarrier> barriers;

struct Store {
  void* to;
  char value[16];
  size_t size;
  uint64_t* barrier;
  JointClock clock;
};
std::vector<Store> stores;

MemoryBarrier& find(uint64_t* address) {
  const auto found = barriers.find(address);
  if (found == barriers.end()) fail("mbarrier", "this barrier has not been initialised, or its block has returned");
  check::access(address, sizeof *address, Access::exchange, true, calling_pc);
  return found->second;
}

void end_phase_if_complete(MemoryBarrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.pending = barrier.count;
  ++barrier.phase;
  barrier.last_phase_clock = barrier.clock;
  check::reset(barrier.clock);
  for (Thread* thread : barrier.waiting) make_runnable(*thread);
  barrier.waiting.clear();
  note_progress();
}

}  // namespace

void mbarrier_init(uint64_t* address, unsigned count) {
  calling_pc = __builtin_return_address(0);
  must_be_aligned(address, sizeof *address);
  if (count == 0) fail("mbarrier", "a barrier for 0 arrivals");
  check::access(address, sizeof *address, Access::store, false, calling_pc);
  barriers[address] = {};
  barriers[address].count = barriers[address].pending = count;
}

void mbarrier_arrive(uint64_t* address, unsigned expected_bytes) {
  step();
  calling_pc = __builtin_return_address(0);
  MemoryBarrier& barrier = find(address);
  if (barrier.pending == 0)
    fail("mbarrier", "more arrivals than the %u the barrier was initialised for", barrier.count);
  barrier.bytes += expected_bytes;
  --barrier.pending;
  check::join(barrier.clock, *current);
  end_phase_if_complete(barrier);
}

bool mbarrier_test(uint64_t* address, unsigned parity) {
  step();
  calling_pc = __builtin_return_address(0);
  MemoryBarrier& barrier = find(address);
  if ((barrier.phase & 1) == (parity & 1)) {
    steps_left -= 8;
    return false;
  }
  check::learn(*current, barrier.last_phase_clock);
  return true;
}

void mbarrier_wait(uint64_t* address, unsigned parity) {
  calling_pc = __builtin_return_address(0);
  const void* here = calling_pc;
  while ((find(address).phase & 1) == (parity & 1)) {
    find(address).waiting.push_back(current);
    wait("wait at an mbarrier");
    calling_pc = here;
  }
  check::learn(*current, find(address).last_phase_clock);
  give_way();
}

// ---- st.async: delivered at some later time, in any order

void store_async(void* address, const void* value, size_t size, uint64_t* barrier) {
  step();
  calling_pc = __builtin_return_address(0);
  must_be_aligned(address, size);
  find(barrier);
  check::access(address, size, Access::store, false, calling_pc);
  Store store{address, {}, size, barrier, {}};
  std::memcpy(store.value, value, size);
  check::join(store.clock, *current);
  stores.push_back(std::move(store));
}

bool stores_under_way() { return !stores.empty(); }

void deliver_store(uint32_t random) {
  std::swap(stores[random % stores.size()], stores.back());
  const Store store = std::move(stores.back());
  stores.pop_back();
  const auto found = barriers.find(store.barrier);
  if (found == barriers.end()) return;  // its block has returned: found in check mode
  std::memcpy(store.to, store.value, store.size);
  found->second.bytes -= (int64_t)store.size;
  check::join(found->second.clock, store.clock);
  end_phase_if_complete(found->second);
}

void forget_barriers(const Block& block) {
  for (auto at = barriers.begin(); at != barriers.end();) {
    const char* p = (const char*)at->first;
    at = p >= block.shared && p < block.shared + shared_bytes_of_block() ? barriers.erase(at) : std::next(at);
  }
}

void forget_stores() { stores.clear(); }

}  // namespace emulator
