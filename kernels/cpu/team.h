// Threads that run one job together. They live for one call: nothing is left to spin, to break after a fork, or to
// be shared by two callers.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

// All members wait until the last one has arrived.
class Barrier {
 public:
  explicit Barrier(int members) : members_(members) {}

  void wait() {
    if (members_ == 1) return;
    const unsigned round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int tries = 0; round_.load(std::memory_order_acquire) == round; ++tries) {
      if (tries < kSpins) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  static constexpr int kSpins = 4000;
  const int members_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> round_{0};
};

// job(member) on `members` threads, the caller being member 0. Where the system gives fewer threads, it throws
// nothing: `members` is chosen by the caller, and threads that can't start are replaced by a smaller team.
template <typename Job>
void run_team(int members, Job make_job) {
  std::atomic<int> size{0};
  std::vector<std::thread> threads;
  std::atomic<bool> go{false};
  int started = 1;
  Barrier* barrier = nullptr;
  auto body = [&](int member) {
    while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
    make_job(member, size.load(), *barrier);
  };
  threads.reserve(members);
  for (; started < members; ++started) {
    try {
      threads.emplace_back(body, started);
    } catch (...) {
      break;
    }
  }
  Barrier shared(started);
  barrier = &shared;
  size.store(started);
  go.store(true, std::memory_order_release);
  make_job(0, started, shared);
  for (auto& thread : threads) thread.join();
}

struct Range {
  long begin, end;
};

// Part `member` of `members` nearly equal parts of 0..count.
inline Range share(long count, int member, int members) {
  return {count * member / members, count * (member + 1) / members};
}
