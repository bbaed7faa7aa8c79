// Check mode: who knows of whom, and who touched what. In fast mode nothing of it is there.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../include/runtime.h"

namespace emulator {

struct Block;
struct Thread;

#ifdef EMULATOR_CHECK

// For each thread of the grid, up to which of its times everything it did is known. Shared between the threads that
// learned the same; never changed once shared.
using Knowledge = std::shared_ptr<std::vector<uint32_t>>;

// What several threads brought together: at a barrier, or at one address by atomics.
struct JointClock {
  Knowledge times;
  Knowledge last_joined;
};

struct ThreadClock {
  uint32_t now = 1;  // moves on whenever others may learn what was done so far
  Knowledge known;
  // By the rules of C++ for fences: a fence before a relaxed store releases, one after a relaxed load acquires.
  Knowledge fenced[2];  // by Scope: what had been done before the last fence of that scope
  Knowledge loaded[2];  // by Scope: what a fence of that scope will teach
};

namespace check {
void launch_starts();
void launch_ends();
void block_starts(Block&);
void block_returns(Block&);  // its last thread has
void block_ends(Block&);
void join(JointClock&, Thread&);  // all that the thread did and knows becomes part of the clock
void join(JointClock&, const JointClock&);
void learn(Thread&, const JointClock&);  // the thread comes after all that is in the clock
void reset(JointClock&);
void access(const volatile void*, size_t, Access, bool atomic, const void* pc);  // by the running thread
}  // namespace check

#else

struct JointClock {};
struct ThreadClock {};

namespace check {
inline void launch_starts() {}
inline void launch_ends() {}
inline void block_starts(Block&) {}
inline void block_returns(Block&) {}
inline void block_ends(Block&) {}
inline void join(JointClock&, Thread&) {}
inline void join(JointClock&, const JointClock&) {}
inline void learn(Thread&, const JointClock&) {}
inline void reset(JointClock&) {}
inline void access(const volatile void*, size_t, Access, bool, const void*) {}
}  // namespace check

#endif

}  // namespace emulator
