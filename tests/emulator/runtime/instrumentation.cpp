// What the compiler calls from instrumented code in fast mode, and atomics there: one thread of the operating system
// runs all, so that nothing can come between if nobody switches.

#include <cstring>

#include "machine.h"

namespace emulator {

void copy(void* to, const volatile void* from, size_t size) { std::memcpy(to, (const void*)from, size); }

void must_be_aligned(const volatile void* address, size_t size) {
  if ((uintptr_t)address % size)
    fail("misaligned", "an atomic access of %zu bytes at an address that is not a multiple of that", size);
}

void atomic_end(bool changed) {
  in_atomic = false;
  if (changed)
    note_progress();
  else
    steps_left -= 8;  // whoever polls shouldn't do so for long
  step();
}

extern "C" __attribute__((visibility("default"))) void __sanitizer_cov_trace_pc() {
  if (--steps_left >= 0 || !current || in_atomic) return;
  calling_pc = __builtin_return_address(0);
  give_way();
}

#ifndef EMULATOR_CHECK

void fence(Scope) {}

void atomic_begin(const volatile void* address, size_t size, Access, Order) {
  step();
  calling_pc = __builtin_return_address(0);
  must_be_aligned(address, size);
  in_atomic = true;
}

#endif

}  // namespace emulator
