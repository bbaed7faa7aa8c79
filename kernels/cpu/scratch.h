// Working memory of a call, kept for the next one: fresh pages cost more than the work that is done in them.
#pragma once

#include <cstdlib>
#include <new>

// What a caller shares with all members of its team, and what a member has to itself.
enum Use { kShared, kMember, kOwn };

class Scratch {
 public:
  ~Scratch() { std::free(memory_); }

  // At least that many bytes, on a cache line; what was in them is lost.
  void* at_least(std::size_t bytes) {
    if (bytes > size_) {
      std::free(memory_);
      size_ = 0;
      memory_ = nullptr;
      if (posix_memalign(&memory_, 64, bytes)) throw std::bad_alloc();
      size_ = bytes;
    }
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  std::size_t size_ = 0;
};

// `count` numbers of the calling thread, until its next call with the same use.
template <typename T, Use use>
T* scratch(long count) {
  thread_local Scratch memory;
  return static_cast<T*>(memory.at_least(sizeof(T) * std::size_t(count)));
}
