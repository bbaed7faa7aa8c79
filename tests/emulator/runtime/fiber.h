// Fibers: stacks and the switch between them. x86-64 only.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulator {

// Saves what a call must preserve on the running stack, its pointer in *from, and goes on where `to` was saved.
extern "C" void emulator_switch_stack(void** from, void* to);
asm(R"(
.text
.hidden emulator_switch_stack
.globl emulator_switch_stack
.type emulator_switch_stack, @function
emulator_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch_stack, .-emulator_switch_stack
)");

struct Stack {
  static constexpr size_t bytes = 128 << 10;
  static constexpr uint64_t canary = 0x5afe57acc0ffee11;

  char* low = nullptr;

  bool contains(const char* p) const { return p >= low && p < low + bytes; }
  bool intact() const { return *(const uint64_t*)low == canary; }
};

// Stacks are kept for the next block that starts, and given back when a launch has ended: each module has a pool, and a
// test run loads hundreds of modules.
class StackPool {
 public:
  Stack take() {
    if (free_.empty()) grow();
    const Stack stack = free_.back();
    free_.pop_back();
    return stack;
  }
  void give_back(Stack stack) { free_.push_back(stack); }
  void release() {
    for (void* memory : grown_) munmap(memory, at_once * Stack::bytes);
    grown_.clear();
    free_.clear();
  }

 private:
  static constexpr size_t at_once = 64;

  void grow() {
    void* memory = mmap(nullptr, at_once * Stack::bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) __builtin_trap();
    grown_.push_back(memory);
    for (size_t i = 0; i < at_once; ++i) {
      free_.push_back({(char*)memory + i * Stack::bytes});
    }
  }

  std::vector<Stack> free_;
  std::vector<void*> grown_;
};

struct Fiber {
  Stack stack;
  void* pointer = nullptr;  // of its stack, while it doesn't run

  // `offset` keeps the tops of stacks from falling into the same lines of the cache.
  void prepare(Stack on, size_t offset, void (*entry)()) {
    stack = on;
    *(uint64_t*)stack.low = Stack::canary;
    void** top = (void**)(stack.low + Stack::bytes - 64 - offset % 32 * 64);
    *--top = nullptr;  // where entry would return to; keeps its stack aligned
    *--top = (void*)entry;
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    pointer = top;
  }
};

}  // namespace emulator
