// The runtime as one translation unit, compiled once for each mode and linked to every kernel.

#include "scheduler.cpp"
#include "barriers.cpp"
#include "asynchronous.cpp"
#include "shared_memory.cpp"
#include "instrumentation.cpp"
#include "faults.cpp"
#ifdef EMULATOR_CHECK
#include "clocks.cpp"
#include "checker.cpp"
#endif
