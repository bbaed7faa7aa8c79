// Where threads wait for each other: the barrier of a block, operations of a warp, the barrier of a cluster.
// All of them wait for threads that have not returned only; that a block's barrier is stricter, see below.

#include <algorithm>
#include <cstring>

#include "machine.h"

namespace emulator {

// ---- block

// CUDA lets a barrier pass when the missing threads have returned. Here that is a mistake, and so is a barrier that
// threads reach at different places of the text, even if all of them come.
int block_barrier(Site site, int value) {
  calling_pc = nullptr;
  Thread& self = *current;
  Block& block = *self.block;
  if (!block.at_barrier.empty() && block.barrier_site.occurrence != site.occurrence)
    fail("divergent barrier", "__syncthreads at %s:%d, while %zu threads of the block wait in the one at %s:%d",
         site.file, site.line, block.at_barrier.size(), block.barrier_site.file, block.barrier_site.line);
  if (block.live != machine.threads_per_block)
    fail("divergent barrier", "__syncthreads at %s:%d after %u threads of the block have returned", site.file,
         site.line, machine.threads_per_block - block.live);
  block.barrier_site = site;
  block.barrier_sum += value != 0;
  check::join(block.barrier_clock, self);
  if (block.at_barrier.size() + 1 < block.live) {
    block.at_barrier.push_back(&self);
    wait("wait in __syncthreads", site);
    return self.barrier_result;
  }
  const int sum = block.barrier_sum;
  check::learn(self, block.barrier_clock);
  for (Thread* thread : block.at_barrier) {
    thread->barrier_result = sum;
    check::learn(*thread, block.barrier_clock);
    make_runnable(*thread);
  }
  block.at_barrier.clear();
  block.barrier_sum = 0;
  check::reset(block.barrier_clock);
  note_progress();
  give_way();
  return sum;
}

// ---- warp

namespace {

const char* name_of(WarpOperation operation) {
  switch (operation) {
    case WarpOperation::barrier:
      return "wait in __syncwarp";
    case WarpOperation::shuffle:
      return "wait in a shuffle";
    case WarpOperation::vote:
      return "wait in a vote";
    case WarpOperation::match:
      return "wait in a match";
    case WarpOperation::reduce:
      return "wait in a warp reduction";
    default:
      return "wait in a matrix operation of the warp";
  }
}

// If all have come: everyone gets what everyone brought.
bool complete(Warp& warp, Rendezvous& meeting) {
  if (meeting.mask & warp.live & ~meeting.arrived) return false;
  for (const auto& to : meeting.guests) {
    *to.lanes = meeting.arrived;
    for (const auto& from : meeting.guests)
      if (meeting.size) std::memcpy((char*)to.values + meeting.size * from.thread->lane, from.value, meeting.size);
    if (meeting.operation == WarpOperation::barrier) check::learn(*to.thread, meeting.clock);
    if (to.thread->state == State::waiting) make_runnable(*to.thread);
  }
  warp.meetings.erase(warp.meetings.begin() + (&meeting - warp.meetings.data()));
  note_progress();
  return true;
}

}  // namespace

unsigned warp_exchange(WarpOperation operation, unsigned mask, const void* value, void* values, size_t size) {
  calling_pc = __builtin_return_address(0);
  Thread& self = *current;
  Warp& warp = *self.warp;
  const unsigned mine = 1u << self.lane;
  if (!(mask & mine))
    fail("wrong mask", "lane %d calls a warp operation whose mask, %08x, leaves it out", self.lane, mask);
  Rendezvous* meeting = nullptr;
  for (Rendezvous& other : warp.meetings)
    if (other.mask == mask && other.operation == operation && other.size == size) meeting = &other;
  if (!meeting) {
    warp.meetings.emplace_back();
    meeting = &warp.meetings.back();
    meeting->operation = operation;
    meeting->mask = mask;
    meeting->size = size;
  }
  meeting->arrived |= mine;
  for (const Rendezvous& other : warp.meetings)
    if (&other != meeting && other.arrived & mask && meeting->arrived & other.mask)  // each waits for the other
      fail(other.mask == mask ? "divergent warp" : "wrong mask",
           "lanes %08x %s with mask %08x; this lane comes to another operation, with mask %08x", other.arrived,
           name_of(other.operation), other.mask, mask);
  unsigned lanes = 0;
  meeting->guests.push_back({&self, value, values, &lanes});
  if (operation == WarpOperation::barrier) check::join(meeting->clock, self);
  if (complete(warp, *meeting))
    give_way();
  else
    wait(name_of(operation));
  return lanes;
}

// ---- cluster

namespace {

void end_phase_if_all_arrived(Cluster& cluster) {
  if (cluster.arrived == 0 || cluster.arrived < cluster.live) return;
  cluster.arrived = 0;
  ++cluster.phase;
  cluster.last_phase_clock = cluster.barrier_clock;
  check::reset(cluster.barrier_clock);
  for (Thread* thread : cluster.waiting) make_runnable(*thread);
  cluster.waiting.clear();
  note_progress();
}

}  // namespace

void cluster_arrive(Arrival arrival) {
  calling_pc = __builtin_return_address(0);
  Thread& self = *current;
  Cluster& cluster = *self.block->cluster;
  if (self.arrived_at_cluster)
    fail("cluster barrier", "this thread arrives at the cluster's barrier again without having waited in between");
  self.arrived_at_cluster = true;
  self.cluster_phase = cluster.phase;
  ++cluster.arrived;
  if (arrival == Arrival::release) check::join(cluster.barrier_clock, self);
  end_phase_if_all_arrived(cluster);
}

void cluster_wait() {
  calling_pc = __builtin_return_address(0);
  Thread& self = *current;
  Cluster& cluster = *self.block->cluster;
  if (!self.arrived_at_cluster)
    fail("cluster barrier", "this thread waits at the cluster's barrier without having arrived");
  if (self.cluster_phase == cluster.phase) {
    cluster.waiting.push_back(&self);
    wait("wait at the cluster's barrier");
  }
  self.arrived_at_cluster = false;
  check::learn(self, cluster.last_phase_clock);
  give_way();
}

// ---- return

void thread_leaves(Thread& thread) {
  Block& block = *thread.block;
  calling_pc = nullptr;
  if (!block.at_barrier.empty())
    fail("divergent barrier", "this thread returned, while %zu threads of its block wait in __syncthreads at %s:%d",
         block.at_barrier.size(), block.barrier_site.file, block.barrier_site.line);
  thread.warp->live &= ~(1u << thread.lane);
  if (--block.live == 0) check::block_returns(block);
  --block.cluster->live;
  if (thread.arrived_at_cluster && thread.cluster_phase == block.cluster->phase) --block.cluster->arrived;
  for (size_t i = 0; i < thread.warp->meetings.size();)
    if (!complete(*thread.warp, thread.warp->meetings[i])) ++i;
  end_phase_if_all_arrived(*block.cluster);
}

}  // namespace emulator
