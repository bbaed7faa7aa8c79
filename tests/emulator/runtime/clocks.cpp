// Check mode: vector clocks. A thread's own time counts its releases; what it knows of others is shared with all who
// learned the same, so that a barrier of a block costs one vector, not one for each thread.

#include <algorithm>
#include <unordered_map>

#include "machine.h"

namespace emulator {

namespace {

Knowledge merged(const Knowledge& a, const Knowledge& b) {
  if (a == b || !b) return a;
  if (!a) return b;
  bool a_has_all = true, b_has_all = true;
  for (size_t i = 0; i < a->size(); ++i) {
    a_has_all &= (*a)[i] >= (*b)[i];
    b_has_all &= (*b)[i] >= (*a)[i];
  }
  if (a_has_all) return a;
  if (b_has_all) return b;
  auto result = std::make_shared<std::vector<uint32_t>>(*a);
  for (size_t i = 0; i < result->size(); ++i) (*result)[i] = std::max((*result)[i], (*b)[i]);
  return result;
}

void join_knowledge(JointClock& clock, const Knowledge& knowledge) {
  if (!knowledge || knowledge == clock.last_joined) return;
  clock.times = merged(clock.times, knowledge);
  clock.last_joined = knowledge;
}

// All that the thread did and knows.
Knowledge snapshot(Thread& thread) {
  ThreadClock& clock = thread.clock;
  auto result = clock.known ? std::make_shared<std::vector<uint32_t>>(*clock.known)
                            : std::make_shared<std::vector<uint32_t>>(machine.threads_in_grid);
  (*result)[thread.number] = clock.now++;
  return result;
}

// What atomics and volatile accesses at one address hand on.
struct Handover {
  JointClock clock[2];  // by Scope
  uint32_t block = 0;   // of those whose fences had the scope of a block
};
std::unordered_map<uintptr_t, Handover> handovers;

constexpr int of_block = (int)Scope::block, of_device = (int)Scope::device;

void hand_over(Handover& at, Thread& self, bool replaces, Order order) {
  if (replaces) at.clock[of_block] = at.clock[of_device] = {};
  if (at.block != self.block->number) at.clock[of_block] = {};
  at.block = self.block->number;
  if (order == Order::synchronizing) {
    const Knowledge all = snapshot(self);
    join_knowledge(at.clock[of_device], all);
    join_knowledge(at.clock[of_block], all);
    return;
  }
  join_knowledge(at.clock[of_device], self.clock.fenced[of_device]);
  join_knowledge(at.clock[of_block], self.clock.fenced[of_device]);
  join_knowledge(at.clock[of_block], self.clock.fenced[of_block]);
}

void take_over(const Handover& at, Thread& self, Order order) {
  ThreadClock& clock = self.clock;
  const bool same_block = at.block == self.block->number;
  if (order == Order::synchronizing) {
    clock.known = merged(clock.known, at.clock[of_device].times);
    if (same_block) clock.known = merged(clock.known, at.clock[of_block].times);
    return;
  }
  clock.loaded[of_device] = merged(clock.loaded[of_device], at.clock[of_device].times);
  if (same_block) clock.loaded[of_block] = merged(clock.loaded[of_block], at.clock[of_block].times);
}

}  // namespace

namespace check {

void join(JointClock& clock, Thread& thread) {
  join_knowledge(clock, thread.clock.known);
  if (!clock.times) clock.times = std::make_shared<std::vector<uint32_t>>(machine.threads_in_grid);
  if (clock.times.use_count() > 1) clock.times = std::make_shared<std::vector<uint32_t>>(*clock.times);
  (*clock.times)[thread.number] = thread.clock.now++;
}

void join(JointClock& clock, const JointClock& other) { join_knowledge(clock, other.times); }

void learn(Thread& thread, const JointClock& clock) {
  Knowledge& known = thread.clock.known;
  known = known == clock.last_joined ? clock.times : merged(known, clock.times);  // what was joined is in it
}

void reset(JointClock& clock) { clock = {}; }

// Something that one thread did at some time: does another one come after it?
bool comes_after(const Thread& self, uint32_t thread, uint32_t time) {
  return thread == self.number || (self.clock.known && (*self.clock.known)[thread] >= time);
}

void synchronize(const volatile void* address, Access access, Order order) {
  Handover& at = handovers[(uintptr_t)address];
  if (access != Access::store) take_over(at, *current, order);
  if (access != Access::load) hand_over(at, *current, access == Access::store, order);
}

void forget_handovers() { handovers.clear(); }

}  // namespace check

void fence(Scope scope) {
  ThreadClock& clock = current->clock;
  clock.known = merged(clock.known, clock.loaded[of_block]);
  clock.loaded[of_block] = nullptr;
  if (scope == Scope::device) {
    clock.known = merged(clock.known, clock.loaded[of_device]);
    clock.loaded[of_device] = nullptr;
  }
  clock.fenced[(int)scope] = snapshot(*current);
}

}  // namespace emulator
