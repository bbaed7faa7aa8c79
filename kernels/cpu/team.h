// Threads that run one job together. Jobs don't throw: what they need is taken before (scratch.h).
//
// They are started once and sleep between calls: after a job they look for the next one for some tenths of
// milliseconds, which makes a chain of short calls cheap, and then wait on a condition variable, which leaves the
// processors to others. A second caller at the same time, and a process after fork, are served too.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <optional>
#include <thread>

#ifndef _WIN32
#include <unistd.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

inline void pause_a_moment() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// All members wait until the last one has arrived.
class Barrier {
 public:
  explicit Barrier(int members) : members_(members) {}

  void wait() {
    if (members_ == 1) return;
    const int64 before = arrived_.fetch_add(1, std::memory_order_acq_rel), all = before - before % members_ + members_;
    for (int tries = 0; arrived_.load(std::memory_order_acquire) < all; ++tries) {
      if (tries < kSpins)
        pause_a_moment();
      else
        std::this_thread::yield();
    }
  }

 private:
  static constexpr int kSpins = 4000;
  const int members_;
  alignas(64) std::atomic<int64> arrived_{0};  // ever: one line of memory goes to and fro, once
};

struct Range {
  int64 begin, end;
};

// Part `member` of `members` nearly equal parts of 0..count.
inline Range share(int64 count, int member, int members) {
  return {count * member / members, count * (member + 1) / members};
}

// Keeps the members of a team on different processors. A thread that is woken may be put beside the one that woke it,
// and as both are busy then, it can take the system many milliseconds to part them.
class Places {
 public:
#ifdef __linux__
  // Called by each member as its job begins.
  void settle(int member) {
    if (member >= kMost) return;
    int here = sched_getcpu();
    bool taken = false;
    for (int other = 0; other < member; ++other) taken = taken || at_[other].load(std::memory_order_relaxed) == here;
    if (taken) here = move_away(member);
    at_[member].store(here, std::memory_order_relaxed);
  }

 private:
  // To a processor that no member before this one is on, if the thread may use one.
  int move_away(int member) {
    cpu_set_t allowed, free;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return sched_getcpu();
    free = allowed;
    for (int other = 0; other < member; ++other) {
      const int cpu = at_[other].load(std::memory_order_relaxed);
      if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_CLR(cpu, &free);
    }
    if (CPU_COUNT(&free) && !sched_setaffinity(0, sizeof free, &free)) sched_setaffinity(0, sizeof allowed, &allowed);
    return sched_getcpu();
  }

  static constexpr int kMost = 256;
  std::atomic<int> at_[kMost] = {};
#else
  void settle(int) {}
#endif
};

class Team {
 public:
  // job(member, members, barrier) on `members` threads, or on fewer where the system gives no more; the caller is
  // member 0.
  template <typename Job>
  static void run(int members, const Job& job) {
    run(members, Task{[](const void* context, int member, int size, Barrier& barrier) {
                        (*static_cast<const Job*>(context))(member, size, barrier);
                      },
                      &job});
  }

  // job(part, member, members, barrier) for one or two parts. Two run at once, each on about half of the threads and
  // with a barrier of its own; on one thread one after the other.
  template <typename Job>
  static void run(int parts, int members, const Job& job) {
    std::optional<Barrier> barriers[2];
    run(members, [&](int member, int size, Barrier& barrier) {
      const int half = size / 2;
      if (parts == 1 || half == 0) {
        for (int part = 0; part < parts; ++part) job(part, member, size, barrier);
        return;
      }
      if (member == 0) {
        barriers[0].emplace(half);
        barriers[1].emplace(size - half);
      }
      barrier.wait();
      if (member < half) job(0, member, half, *barriers[0]);
      else job(1, member - half, size - half, *barriers[1]);
    });
  }

 private:
  struct Task {
    void (*call)(const void* context, int member, int members, Barrier& barrier);
    const void* context;
  };

  // The team of this process, or none where there is no memory for it: a child after fork has none of its parent's
  // threads and makes its own.
  static Team* instance() {
#ifndef _WIN32
    static std::atomic<Team*> current{nullptr};
    static std::atomic<int64> owner{0};
    static std::atomic_flag changing = ATOMIC_FLAG_INIT;
    const int64 process = getpid();
    if (owner.load(std::memory_order_acquire) != process) {
      while (changing.test_and_set(std::memory_order_acquire)) pause_a_moment();
      if (owner.load(std::memory_order_relaxed) != process) {
        Team* made = new (std::nothrow) Team;
        current.store(made, std::memory_order_relaxed);
        if (made) owner.store(process, std::memory_order_release);
      }
      changing.clear(std::memory_order_release);
    }
    return current.load(std::memory_order_acquire);
#else
    static Team* team = new (std::nothrow) Team;
    return team;
#endif
  }

  __attribute__((noinline)) static void run(int members, const Task& task) {
    if (Team* team = members > 1 ? instance() : nullptr) {
      std::unique_lock<std::mutex> mine(team->in_use_, std::try_to_lock);
      if (mine.owns_lock()) {
        team->grow(members - 1);
        team->run_with_workers(members, task);
        return;
      }
    }
    // Alone, or another caller has the workers: its job is as long as ours, so waiting would cost no less.
    Barrier barrier(1);
    task.call(task.context, 0, 1, barrier);
  }

  void grow(int workers) {
    while (workers_ < workers) {
      try {
        std::thread([this, id = workers_ + 1, seen = round_.load()] { work(id, seen); }).detach();
      } catch (...) {
        return;
      }
      ++workers_;
    }
  }

  void run_with_workers(int members, const Task& task) {
    members_ = members < workers_ + 1 ? members : workers_ + 1;
    Barrier barrier(members_);
    barrier_ = &barrier;
    task_ = task;
    done_.store(0, std::memory_order_relaxed);
    places_.settle(0);
    {
      std::lock_guard<std::mutex> lock(sleep_);
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    task.call(task.context, 0, members_, barrier);
    for (int tries = 0; done_.load(std::memory_order_acquire) < workers_; ++tries) {
      if (tries < kSpins)
        pause_a_moment();
      else
        std::this_thread::yield();
    }
  }

  void work(int id, unsigned seen) {
    for (;;) {
      for (int tries = 0; tries < kSpins && round_.load(std::memory_order_acquire) == seen; ++tries) pause_a_moment();
      if (round_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(sleep_);
        wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
      }
      ++seen;  // every worker answers every round, so that none can miss one
      if (id < members_) {
        places_.settle(id);
        task_.call(task_.context, id, members_, *barrier_);
      }
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  static constexpr int kSpins = 16000;
  std::mutex in_use_, sleep_;
  std::condition_variable wake_;
  std::atomic<unsigned> round_{0};
  std::atomic<int> done_{0};
  int workers_ = 0, members_ = 0;
  Barrier* barrier_ = nullptr;
  Places places_;
  Task task_{};
};

// job.run(member, members, barrier) on a team.
template <typename Job>
void run_on(int64 threads, const Job& job) {
  Team::run(int(threads), [&](int member, int members, Barrier& barrier) { job.run(member, members, barrier); });
}
