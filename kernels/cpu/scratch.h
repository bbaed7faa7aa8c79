// Working memory of a call, kept for the next one: fresh pages cost more than the work that is done in them.
//
// All of a call's is taken by the thread that calls, before any other one starts and before anything is written: where
// there is not enough, nothing has happened.
#pragma once

#include <cstddef>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

class Scratch {
 public:
  ~Scratch() { release(); }

  // At least that many bytes, on a cache line, in huge pages where the system has some; what was in them is lost.
  void* at_least(std::size_t bytes) {
    if (bytes > size_) {
      release();
      memory_ = ::operator new(bytes, alignment(bytes));
      size_ = bytes;
#ifdef MADV_HUGEPAGE
      if (bytes >= kHuge / 2) madvise(memory_, bytes, MADV_HUGEPAGE);
#endif
    }
    return memory_;
  }

 private:
  static constexpr std::size_t kLine = 64, kHuge = 1 << 21;
  static std::align_val_t alignment(std::size_t bytes) { return std::align_val_t(bytes < kHuge / 2 ? kLine : kHuge); }

  void release() {
    ::operator delete(memory_, alignment(size_));
    memory_ = nullptr;
    size_ = 0;
  }

  void* memory_ = nullptr;
  std::size_t size_ = 0;
};

// `count` numbers of the calling thread, until its next call.
template <typename T>
T* scratch(long count) {
  thread_local Scratch memory;
  return static_cast<T*>(memory.at_least(sizeof(T) * std::size_t(count)));
}

// So many numbers and what fills the last cache line: parts of that size begin at one.
template <typename T>
long whole_lines(long count) {
  constexpr long line = 64 / sizeof(T);
  return (count + line - 1) / line * line;
}
