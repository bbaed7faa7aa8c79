// Signals of the processor: in fast mode nothing else stops an address far outside of all arrays.

#include <signal.h>
#include <ucontext.h>

#include <cstdlib>

#include "machine.h"

namespace emulator {

namespace {

constexpr int signals[] = {SIGSEGV, SIGBUS, SIGFPE};
constexpr size_t stack_bytes = 64 << 10;

struct sigaction actions_before[3];
stack_t stack_before;

void on_signal(int number, siginfo_t* info, void* context) {
  if (!current) {  // not a kernel's
    for (int i = 0; i < 3; ++i)
      if (signals[i] == number) sigaction(number, &actions_before[i], nullptr);
    return;
  }
  // One past the instruction, as a return address would be.
  calling_pc = (const char*)((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP] + 1;
  if (!is_in_library(calling_pc)) calling_pc = nullptr;
  if (number == SIGFPE) fail("division by zero", "an integer is divided by zero");
  if (info->si_code == SI_KERNEL)  // the processor names no address: it refused one for its form
    fail("misaligned", "access to several values at once at an address that is not a multiple of their size");
  if ((uintptr_t)info->si_addr < 4096) fail("null pointer", "access to address %zu", (size_t)info->si_addr);
  fail("out of bounds", "access to %p, where there is no memory", info->si_addr);
}

}  // namespace

FaultReports::FaultReports() {
  static char* stack = (char*)std::malloc(stack_bytes);  // a fiber that ran out of stack has none for the handler
  stack_t own{};
  own.ss_sp = stack;
  own.ss_size = stack_bytes;
  sigaltstack(&own, &stack_before);
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // the handler doesn't return: it leaves for the scheduler
  for (int i = 0; i < 3; ++i) sigaction(signals[i], &action, &actions_before[i]);
}

FaultReports::~FaultReports() {
  for (int i = 0; i < 3; ++i) sigaction(signals[i], &actions_before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}

}  // namespace emulator
