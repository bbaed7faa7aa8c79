// Working memory of a call, kept for the next one: fresh pages cost more than the work that is done in them.
//
// All of a call's is taken by the thread that calls, before any other one starts and before anything is written: where
// there is not enough, nothing has happened.
#pragma once

#include <cstddef>
#include <new>

class Scratch {
 public:
  ~Scratch() { release(); }

  // At least that many bytes, on a cache line; what was in them is lost.
  void* at_least(std::size_t bytes) {
    if (bytes > size_) {
      release();
      memory_ = ::operator new(bytes, kLine);
      size_ = bytes;
    }
    return memory_;
  }

 private:
  static constexpr std::align_val_t kLine{64};

  void release() {
    ::operator delete(memory_, kLine);
    memory_ = nullptr;
    size_ = 0;
  }

  void* memory_ = nullptr;
  std::size_t size_ = 0;
};

// `count` numbers of the calling thread, until its next call; `of` tells what two take who work in one call.
template <typename T, int of = 0>
T* scratch(int64 count) {
  thread_local Scratch memory;
  return static_cast<T*>(memory.at_least(sizeof(T) * std::size_t(count)));
}

// So many numbers and what fills the last cache line: parts of that size begin at one.
template <typename T>
int64 whole_lines(int64 count) {
  constexpr int64 line = 64 / sizeof(T);
  return (count + line - 1) / line * line;
}
