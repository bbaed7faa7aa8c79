// What Python hands over for one launch. Mirrored by ctypes structures in ../launch.py.
#pragma once

#include <cstdint>

namespace emulator {

struct Argument {
  const void* value;
  uint32_t size;
  char kind;  // p, i, f, or ? when unknown
};

// Memory that kernels may touch: an array, or several that overlap.
struct Region {
  char* begin;
  uint64_t bytes;
  int32_t argument;  // named in reports
};

struct LaunchConfig {
  uint32_t grid[3], block[3], cluster[3];
  uint32_t shared_bytes;  // dynamic shared memory
  uint32_t cooperative;
  uint32_t resident_clusters;  // how many run at the same time when not cooperative
  uint64_t seed;
  uint64_t step_limit;
  uint32_t argument_count, region_count;
  const Argument* arguments;
  const Region* regions;
  uint32_t guard_count;
  const uint32_t* guards;  // in shared memory, of g++: bytes that are not zero once a variable is constructed
  char* kind;              // out: kind of mistake, 64 characters
  char* message;
  uint32_t message_bytes;
};

}  // namespace emulator
