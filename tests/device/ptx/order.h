// What comes before what. With GPU_LSTM_DEVICE_ORDER in the environment each access to memory is held against all that the
// PTX memory model puts before it, and strong reads (relaxed, acquire, volatile) may give what was there some time ago.
//
// Every thread has a clock of its own, and knows of each other one up to which time what it did comes before. Barriers,
// fences, and what is acquired of what was released hand on what is known: nothing else does. Two accesses to the same
// bytes, one of them a write, of which neither comes before the other, are a race, unless both are strong. So a weak read
// has one value that it may give, the newest; only what strong reads give is a matter of luck.
#pragma once
#include <unordered_map>

#include "machine.h"

using Times = std::shared_ptr<const std::vector<u32>>;  // by thread of the grid; shared by all who know the same

struct Clock {
  Times all;
  Times reads;  // known is only that reads are over: what was written by then need not be seen
  void join(const Clock&);
};

// Where the clocks of many are put together.
class Gathering {
 public:
  void add(const Times&);
  void add(u32 thread, u32 time, std::size_t threads);
  Times take();

 private:
  std::shared_ptr<std::vector<u32>> times;
  Times last;  // what was added last: many have the same
};

// What a store hands on to those who acquire it, as far as its scope reaches from its block.
struct Released {
  Clock clock;
  Scope scope;
  u32 block;
};

// A store to a word of 8 bytes that others may not see yet.
struct Message {
  u64 bits;  // at their place in the word
  u8 bytes;  // a bit each
  u32 number, writer, time, round;
  std::vector<Released> released;
  std::unordered_map<u32, u32> readers;  // and when
};

struct Word {
  u64 before;
  std::vector<Message> messages;  // in the order that all agree on
};

// An access that is remembered, to some of 4 bytes.
struct Record {
  u32 thread;  // + 1; 0: none
  u32 time, instruction;
  u8 bytes, size;
  Scope scope;
  bool write : 1, strong : 1, elements : 1;
};

struct Page {
  static constexpr u64 CELLS = 1024;
  Record records[CELLS][4];
  u8 written[CELLS];  // of shared memory
};

// What st.async has sent and is not there yet.
struct Sent {
  Warp* warp;
  const Instruction* instruction;
  u64 to, barrier;
  u32 words[4], thread, time;
};

class Order {
 public:
  Order(const Launch&, u64 seed);

  // Accesses by a lane, before they are done; gives what is read.
  u64 load(Warp&, int lane, const Instruction&, const char*, int size);
  void store(Warp&, int lane, const Instruction&, char*, int size, u64 bits);
  void update(Warp&, int lane, const Instruction&, char*, int size, u64 bits);  // atom, red
  void fence(Warp&, int lane, const Instruction&);
  void use(Warp&, const Instruction&, Mask);  // registers, before each instruction

  void meet(const std::vector<u32>& threads);
  void arrive(Warp&, int lane, const Instruction&);  // at the cluster's barrier
  void complete(const Cluster*);
  void wait(Warp&, int lane);

  // mbarriers, by address
  void initialise(Warp&, int lane, const Instruction&, const char*);
  void arrive(Warp&, int lane, const Instruction&, const char*);
  void complete(const char*);
  void wait(Warp&, int lane, const Instruction&, const char*, bool done);
  void send(int lane, Sent, const char* to, const char* barrier);
  void come(const Sent&, const char* barrier);
  std::vector<Sent> coming(bool all);  // those of what was sent that come now

  void begin(const std::vector<Block>&);  // all at once
  void end(const Block&);

  const u32 of_block;  // threads
  u32 number(const Warp& w, int lane) const { return w.block->number * of_block + u32(w.first + lane); }

 private:
  struct Thread {
    Clock known, loaded[3], fenced[3];  // by scope: what a fence would make known; what the last fence hands on
    Times on_arrival;                   // at the cluster's barrier
    Times sequential;                   // by fence.sc: can be seen, but that luck had it so is no excuse for a race
    u32 now = 1, sent = 0;
    bool waited = false;
    int unused = 0;  // shared loads whose numbers nothing has used yet
  };
  struct Meeting {  // a phase of a barrier, and the one before
    Gathering all, reads;
    Clock done;
  };
  struct Mailbox {
    Meeting own, others;  // by threads of the block, by other blocks
  };

  const Launch& launch;
  u64 seed;
  u32 count, first = 0, numbers = 0, rounds = 0, chance;
  std::size_t clocks;  // of threads, then of what they send
  std::vector<Thread> threads;  // of the blocks that run, from the first on
  std::unordered_map<u64, Word> words;
  std::unordered_map<u64, std::unique_ptr<Page>> pages;
  std::unordered_map<const Cluster*, Meeting> clusters;
  std::unordered_map<const char*, Mailbox> mailboxes;
  std::unordered_map<const Warp*, std::vector<Mask>> unused;  // by row
  std::vector<Sent> under_way;
  Times sequential;  // what fence.sc hand each other
  u64 last_page = 0;
  Page* page = nullptr;
  bool relaxed_arrivals = false;

  struct Access {
    u32 self, as, time;  // as: who is remembered
    bool reads, writes, strong;
    Scope scope;
  };
  Access by(u32 self, const Instruction&, bool reads, bool writes);
  Access at_mbarrier(u32 self);
  void see(Warp&, const Access&, const Instruction&, const char*, int size);
  void look(Warp&, u32 self, Record (&)[4], const Record&, const char*, const Instruction&);
  Page& page_of(u64 number);
  bool before(u32 self, u32 thread, u32 time, bool write) const;
  Scope apart(u32 block, u32 other) const;
  Thread& of(u32 thread) { return threads[thread - first]; }
  const Thread& of(u32 thread) const { return threads[thread - first]; }
  template <class F> void each_cell(const Block&, F);
  u32 block_of(u32 thread) const { return thread % count / of_block; }

  Clock snapshot(u32 self);
  bool visible(const Message&, u32 self) const;
  void take(u32 self, const Instruction&, const std::vector<Released>&);
  std::vector<Released> released(u32 self, const Instruction&);
  void append(u32 self, const char*, int size, u64 bits, std::vector<Released>);

  std::string place(Warp&, const char*) const;
  std::string who(u32 thread) const;
  [[noreturn]] void fault(const std::string&, const Instruction&) const;
};
