#include "order.h"

#include <algorithm>
#include <utility>

namespace {

constexpr u32 OLD = 3;  // rounds, after which all see a store

Times merged(const Times& a, const Times& b) {
  if (a == b || !b) return a;
  if (!a) return b;
  bool a_has_all = true, b_has_all = true;
  for (std::size_t n = 0; n < a->size(); ++n) {
    a_has_all &= (*a)[n] >= (*b)[n];
    b_has_all &= (*b)[n] >= (*a)[n];
  }
  if (a_has_all) return a;
  if (b_has_all) return b;
  auto both = std::make_shared<std::vector<u32>>(*a);
  for (std::size_t n = 0; n < both->size(); ++n) (*both)[n] = std::max((*both)[n], (*b)[n]);
  return both;
}

u64 spread(u64 x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

u64 bits_of(u8 bytes) {
  u64 bits = 0;
  for (int n = 0; n < 8; ++n)
    if (bytes >> n & 1) bits |= u64(0xff) << (8 * n);
  return bits;
}

// The word that an address lies in, and which bytes of it an access has.
u64 word_of(const char* p) { return reinterpret_cast<u64>(p) / 8; }
int shift_of(const char* p) { return int(reinterpret_cast<u64>(p) % 8 * 8); }
u8 bytes_of(const char* p, int size) { return u8(((1u << size) - 1) << (reinterpret_cast<u64>(p) % 8)); }

}  // namespace

void Clock::join(const Clock& other) {
  all = merged(all, other.all);
  reads = merged(reads, other.reads);
}

void Gathering::add(const Times& more) {
  if (!more || more == last) return;
  last = more;
  if (!times) {
    times = std::make_shared<std::vector<u32>>(*more);
    return;
  }
  for (std::size_t n = 0; n < times->size(); ++n) (*times)[n] = std::max((*times)[n], (*more)[n]);
}
void Gathering::add(u32 thread, u32 time, std::size_t size) {
  if (!times) times = std::make_shared<std::vector<u32>>(size);
  (*times)[thread] = std::max((*times)[thread], time);
}
Times Gathering::take() {
  last = nullptr;
  return std::exchange(times, nullptr);
}

void set_order(const Opcode& op, Instruction& i) {
  const std::string& base = op.base();
  bool both = op.has("acq_rel") || op.has("sc") || base == "membar" || op.whole == "bar.warp.sync";
  bool atomic = base == "atom" || base == "red", mbarrier = base == "mbarrier", relaxed = op.has("relaxed");
  i.acquires = both || op.has("acquire") || (mbarrier && op.has("parity") && !relaxed);
  i.releases = both || op.has("release") || ((mbarrier || base == "barrier") && op.has("arrive") && !relaxed);
  i.sequential = op.has("sc") || base == "membar";
  i.strong = i.acquires || i.releases || relaxed || atomic || op.has("volatile") || (mbarrier && !op.has("init"));
  i.elements = op.has("elements");
  i.loads = base == "ld" && i.space == Space::SHARED;
  if (op.has("cta") || (mbarrier && !op.has("cluster"))) i.scope = Scope::BLOCK;
  else if (op.has("cluster")) i.scope = Scope::CLUSTER;
}

Order::Order(const Launch& what, u64 seed)
    : of_block(what.block[0] * what.block[1] * what.block[2]), launch(what), seed(spread(seed)),
      count(of_block * what.grid[0] * what.grid[1] * what.grid[2]), chance(u32(seed)), clocks(count) {
  for (const Instruction& i : what.kernel->code) {
    if (i.text.find("st.async") != std::string::npos) clocks = 2 * std::size_t(count);
    relaxed_arrivals |= i.kind == Kind::CLUSTER_ARRIVE && !i.releases;
  }
}

// -- what comes before ----------------------------------------------------------------------------------

// How far the scope of one has to reach to have the other in it.
Scope Order::apart(u32 block, u32 other) const {
  if (block == other) return Scope::BLOCK;
  return block / launch.cluster == other / launch.cluster ? Scope::CLUSTER : Scope::DEVICE;
}

bool Order::before(u32 self, u32 thread, u32 time, bool over) const {
  const Clock& known = of(self).known;
  return thread == self || (known.all && (*known.all)[thread] >= time) ||
         (over && known.reads && (*known.reads)[thread] >= time);
}

Clock Order::snapshot(u32 self) {
  Thread& t = of(self);
  auto all = t.known.all ? std::make_shared<std::vector<u32>>(*t.known.all) : std::make_shared<std::vector<u32>>(clocks);
  (*all)[self] = t.now++;
  return {all, t.known.reads};
}

void Order::meet(const std::vector<u32>& present) {
  Gathering all, reads;
  for (u32 self : present) {
    all.add(of(self).known.all);
    reads.add(of(self).known.reads);
  }
  for (u32 self : present) all.add(self, of(self).now++, clocks);
  Clock known{all.take(), reads.take()};
  for (u32 self : present) of(self).known = known;
}

void Order::arrive(Warp& w, int lane, const Instruction& i) {
  u32 self = number(w, lane);
  Thread& t = of(self);
  Meeting& meeting = clusters[w.block->cluster];
  t.on_arrival = t.known.all;
  meeting.reads.add(t.known.reads);
  if (i.releases) {
    meeting.all.add(t.known.all);
    meeting.all.add(self, t.now++, clocks);
    return;
  }
  // A relaxed arrival hands on what a fence before it did; and that reads are over whose numbers have been used.
  for (Scope scope : {Scope::CLUSTER, Scope::DEVICE}) meeting.all.add(t.fenced[int(scope)].all);
  meeting.reads.add(t.known.all);
  if (!t.unused) meeting.reads.add(self, t.now++, clocks);
}
void Order::complete(const Cluster* cluster) {
  Meeting& meeting = clusters[cluster];
  meeting.done = {meeting.all.take(), meeting.reads.take()};
}
void Order::wait(Warp& w, int lane) {
  Thread& t = of(number(w, lane));
  const Clock& done = clusters[w.block->cluster].done;
  t.waited = true;
  if (!relaxed_arrivals && t.known.all == t.on_arrival && !t.known.reads) t.known = done;  // it has what was known
  else t.known.join(done);
}

void Order::fence(Warp& w, int lane, const Instruction& i) {
  if (!i.strong) return;
  u32 self = number(w, lane);
  Thread& t = of(self);
  for (int scope = 0; scope <= int(i.scope); ++scope) t.known.join(std::exchange(t.loaded[scope], {}));
  t.fenced[int(i.scope)] = snapshot(self);
  if (!i.sequential || i.scope != Scope::DEVICE) return;
  t.sequential = sequential = merged(sequential, t.fenced[int(i.scope)].all);
}

// Which shared loads have given their numbers: what is computed of them waits for them.
void Order::use(Warp& w, const Instruction& i, Mask lanes) {
  if (!relaxed_arrivals) return;
  std::vector<Mask>& rows = unused[&w];
  rows.resize(w.rows.size() / LANES);
  auto each = [&](Row row, auto f) {
    if (row != NOWHERE) for_lanes(rows[row] & lanes, [&](int lane) { f(of(number(w, lane)).unused); });
  };
  auto used = [&](Row row) {
    each(row, [](int& n) { --n; });
    if (row != NOWHERE) rows[row] &= ~lanes;
  };
  used(i.guard), used(i.members);
  for (int n = 0; n < i.ins; ++n) used(i.in[n]);
  for (int n = 0; n < i.outs; ++n) used(i.out[n]);
  if (!i.loads) return;
  for (int n = 0; n < i.outs; ++n) {
    rows[i.out[n]] |= lanes;
    each(i.out[n], [](int& n) { ++n; });
  }
}

// -- stores and what others see of them -------------------------------------------------------------------

// The newest that it may not miss; of the rest, some later than others, and not all threads at the same time.
bool Order::visible(const Message& m, u32 self) const {
  u32 age = rounds - m.round;
  u64 late = spread(seed ^ spread(u64(m.number) << 32 | self)) % (2 * OLD);  // half are there at once
  if (age + OLD > late) return true;
  const Times& sequential = of(self).sequential;
  if (before(self, m.writer, m.time, false) || (sequential && (*sequential)[m.writer] >= m.time)) return true;
  return std::any_of(m.readers.begin(), m.readers.end(), [&](auto& r) { return before(self, r.first, r.second, false); });
}

u64 Order::load(Warp& w, int lane, const Instruction& i, const char* p, int size) {
  u32 self = number(w, lane);
  see(w, by(self, i, true, false), i, p, size);
  u64 newest = 0;
  std::memcpy(&newest, p, size);
  if (!i.strong) return newest;
  auto found = words.find(word_of(p));
  if (found == words.end()) return newest;
  Word& word = found->second;
  u8 wanted = bytes_of(p, size);
  u64 bits = word.before;
  for (auto m = word.messages.rbegin(); m != word.messages.rend() && wanted; ++m) {
    u8 fresh = m->bytes & wanted;
    if (!fresh || !visible(*m, self)) continue;
    wanted &= ~fresh;
    bits = (bits & ~bits_of(fresh)) | (m->bits & bits_of(fresh));
    if (rounds - m->round < OLD && m->writer != self) m->readers.try_emplace(self, of(self).now);
    take(self, i, m->released);
  }
  return bits >> shift_of(p) & (~u64(0) >> (64 - 8 * size));
}

void Order::store(Warp& w, int lane, const Instruction& i, char* p, int size, u64 bits) {
  u32 self = number(w, lane);
  see(w, by(self, i, false, true), i, p, size);
  if (i.strong || words.count(word_of(p))) append(self, p, size, bits, i.strong ? released(self, i) : std::vector<Released>());
}

void Order::update(Warp& w, int lane, const Instruction& i, char* p, int size, u64 bits) {
  u32 self = number(w, lane);
  see(w, by(self, i, true, true), i, p, size);
  std::vector<Released> all;  // what was handed on by the store before is handed on by this one, too
  if (auto found = words.find(word_of(p)); found != words.end()) {
    auto& messages = found->second.messages;
    auto last = std::find_if(messages.rbegin(), messages.rend(), [&](auto& m) { return m.bytes & bytes_of(p, size); });
    if (last != messages.rend()) all = last->released;
  }
  if (i.outs) take(self, i, all);
  for (Released& mine : released(self, i)) {
    auto same = std::find_if(all.begin(), all.end(), [&](Released& r) { return r.scope == mine.scope && r.block == mine.block; });
    if (same == all.end()) all.push_back(std::move(mine));
    else same->clock.join(mine.clock);
  }
  append(self, p, size, bits, std::move(all));
}

void Order::append(u32 self, const char* p, int size, u64 bits, std::vector<Released> released) {
  auto [found, fresh] = words.try_emplace(word_of(p));
  Word& word = found->second;
  if (fresh) std::memcpy(&word.before, reinterpret_cast<const char*>(word_of(p) * 8), 8);
  if (word.messages.size() >= 8) {  // forget what nobody can see any more
    u8 covered = 0;
    for (std::size_t n = word.messages.size(); n-- > 0;) {
      Message& m = word.messages[n];
      if (!(m.bytes & ~covered)) word.messages.erase(word.messages.begin() + n);
      else if (rounds - m.round >= OLD) covered |= m.bytes;
    }
  }
  u8 bytes = bytes_of(p, size);
  word.messages.push_back({bits << shift_of(p), bytes, numbers++, self, of(self).now, rounds, std::move(released), {}});
}

std::vector<Released> Order::released(u32 self, const Instruction& i) {
  u32 block = block_of(self);
  if (i.releases) return {{snapshot(self), i.scope, block}};
  std::vector<Released> all;
  for (int scope = 0; scope < 3; ++scope)
    if (const Clock& clock = of(self).fenced[scope]; clock.all)
      all.push_back({clock, std::min(Scope(scope), i.scope), block});
  return all;
}

void Order::take(u32 self, const Instruction& i, const std::vector<Released>& all) {
  Thread& t = of(self);
  for (const Released& r : all) {
    Scope scope = apart(block_of(self), r.block);
    if (scope > r.scope || scope > i.scope) continue;
    (i.acquires ? t.known : t.loaded[int(scope)]).join(r.clock);
  }
}

// -- races ------------------------------------------------------------------------------------------------

Page& Order::page_of(u64 number) {
  if (page && number == last_page) return *page;
  std::unique_ptr<Page>& found = pages[last_page = number];
  if (!found) found.reset(new Page());
  page = found.get();
  return *page;
}

// mbarriers are counted by whoever comes, whatever the scope.
Order::Access Order::by(u32 self, const Instruction& i, bool reads, bool writes) {
  return {self, self, of(self).now, reads, writes, i.strong, i.scope};
}
Order::Access Order::at_mbarrier(u32 self) { return {self, self, of(self).now, true, true, true, Scope::DEVICE}; }

void Order::see(Warp& w, const Access& access, const Instruction& i, const char* p, int size) {
  if (p >= w.local.data() && p < w.local.data() + w.local.size()) return;
  const Block* owner = nullptr;
  for (const Block* block : w.block->cluster->blocks)
    if (p >= block->shared && p < block->shared + block->shared_bytes) owner = block;
  if (owner && owner != w.block && !of(access.self).waited)
    fault("shared memory of another block, by a thread that has not waited at the cluster's barrier: it may not be there yet", i);
  u64 begin = reinterpret_cast<u64>(p), end = begin + size;
  Record mine{access.as + 1, access.time, u32(&i - launch.kernel->code.data()), 0, u8(size), access.scope,
              access.writes, access.strong, i.elements};
  for (u64 cell = begin / 4; 4 * cell < end; ++cell) {
    u64 from = std::max(begin, 4 * cell) - 4 * cell, to = std::min(end, 4 * cell + 4) - 4 * cell;
    mine.bytes = u8((1u << to) - (1u << from));
    Page& shadow = page_of(cell / Page::CELLS);
    if (owner) {
      u8& written = shadow.written[cell % Page::CELLS];
      if (access.reads && mine.bytes & ~written) fault("a read of what nobody has written, " + place(w, p) + ", by " + who(access.self), i);
      if (access.writes) written |= mine.bytes;
    }
    look(w, access.self, shadow.records[cell % Page::CELLS], mine, p, i);
  }
}

void Order::look(Warp& w, u32 self, Record (&records)[4], const Record& mine, const char* p, const Instruction& i) {
  Record* free = nullptr;
  for (Record& r : records) {
    if (!r.thread) {
      free = &r;
      continue;
    }
    bool meet = (r.write || mine.write) && r.bytes & mine.bytes;
    if (!meet && !mine.write) {
      if (r.thread == mine.thread && !r.write && r.bytes == mine.bytes && r.strong == mine.strong) free = &r;
      continue;
    }
    // For a write it is enough that a read is over, or what st.async sent and somebody has had.
    bool earlier = before(self, r.thread - 1, r.time, mine.write && (!r.write || r.thread > count));
    if (meet && !earlier) {
      bool strong = r.strong && mine.strong && apart(block_of(r.thread - 1), block_of(self)) <= std::min(r.scope, mine.scope);
      if (!strong || (r.size != mine.size && !(r.size > mine.size ? r : mine).elements)) {
        const Instruction& other = launch.kernel->code[r.instruction];
        auto what = [](const Record& r) { return std::string(r.write ? "write" : "read") + " of " + std::to_string(r.size) + " bytes"; };
        fault((strong ? "sizes differ: " : "race: ") + what(mine) + ", " + place(w, p) + ", by " + who(self) + ", after the " +
              what(r) + " by " + who(r.thread - 1) + " at " + other.text + ", and nothing puts one before the other", i);
      }
    }
    // What comes after this access comes after that one, which need not be remembered any more.
    if (earlier && !(r.bytes & ~mine.bytes) && (mine.write || !r.write) && (r.strong || !mine.strong)) {
      r.thread = 0;
      free = &r;
    }
  }
  if (!free) {
    for (Record& r : records)
      if (!r.write && before(self, r.thread - 1, r.time, false)) free = &r;
  }
  for (int tries = 0; !free; ++tries) {  // a read, if there is one
    chance = chance * 1664525 + 1013904223;
    Record& r = records[chance >> 30];
    if (!r.write || tries > 8) free = &r;
  }
  *free = mine;
}

template <class F> void Order::each_cell(const Block& block, F f) {
  u64 first = reinterpret_cast<u64>(block.shared) / 4, last = first + (block.shared_bytes + 3) / 4;
  for (u64 number = first / Page::CELLS; number * Page::CELLS < last; ++number) {
    auto found = pages.find(number);
    if (found == pages.end()) continue;
    u64 start = number * Page::CELLS, end = std::min(last - start, Page::CELLS);
    for (u64 cell = std::max(first, start) - start; cell < end; ++cell) f(*found->second, cell);
  }
}

void Order::begin(const std::vector<Block>& blocks) {
  first = blocks.front().number * of_block;
  threads.clear();
  threads.resize(blocks.size() * of_block);
  if (pages.empty()) return;
  for (const Block& block : blocks) {  // where the memory of others was
    each_cell(block, [](Page& page, u64 cell) {
      std::fill_n(page.records[cell], 4, Record{});
      page.written[cell] = 0;
    });
    if (words.empty()) continue;
    for (u64 word = word_of(block.shared); word <= word_of(block.shared + block.shared_bytes); ++word) words.erase(word);
  }
}

// A block's memory goes with it: what other blocks did there comes before, or some day will be too late.
void Order::end(const Block& block) {
  if (block.cluster->blocks.size() == 1) return;
  Gathering all, reads;
  for (u32 n = 0; n < of_block; ++n) {
    const Clock& known = of(block.number * of_block + n).known;
    all.add(known.all);
    reads.add(known.reads);
  }
  Clock known{all.take(), reads.take()};
  auto has = [](const Times& times, const Record& r) { return times && (*times)[r.thread - 1] >= r.time; };
  each_cell(block, [&](Page& page, u64 cell) {
    for (const Record& r : page.records[cell])
      if (r.thread && block_of(r.thread - 1) != block.number && !has(known.all, r) && (r.write || !has(known.reads, r)))
        fault("block " + std::to_string(block.number) + " exits and doesn't wait for what " + who(r.thread - 1) +
              " does in its shared memory", launch.kernel->code[r.instruction]);
  });
}

std::string Order::place(Warp& w, const char* p) const {
  for (const Block* block : w.block->cluster->blocks)
    if (p >= block->shared && p < block->shared + block->shared_bytes)
      return "byte " + std::to_string(p - block->shared) + " of the shared memory of block " + std::to_string(block->number);
  return place_of(reinterpret_cast<u64>(p));
}
std::string Order::who(u32 thread) const {
  u32 real = thread % count;
  return (thread < count ? "thread " : "st.async of thread ") + std::to_string(real % of_block) + " of block " +
         std::to_string(real / of_block);
}
void Order::fault(const std::string& what, const Instruction& i) const {
  throw Fault(launch.kernel->name + ": " + what + ": " + i.text);
}

// -- mbarriers and what is sent to them -------------------------------------------------------------------

void Order::initialise(Warp& w, int lane, const Instruction& i, const char* mbarrier) {
  u32 self = number(w, lane);
  see(w, by(self, i, false, true), i, mbarrier, 8);
  mailboxes[mbarrier] = {};
}
void Order::arrive(Warp& w, int lane, const Instruction& i, const char* mbarrier) {
  u32 self = number(w, lane);
  see(w, at_mbarrier(self), i, mbarrier, 8);
  if (!i.releases) return;
  Mailbox& box = mailboxes[mbarrier];
  bool own = mbarrier >= w.block->shared && mbarrier < w.block->shared + w.block->shared_bytes;
  if (!own && i.scope == Scope::BLOCK) return;
  Meeting& meeting = own ? box.own : box.others;
  meeting.all.add(of(self).known.all);
  meeting.reads.add(of(self).known.reads);
  meeting.all.add(self, of(self).now++, clocks);
}
void Order::complete(const char* mbarrier) {
  Mailbox& box = mailboxes[mbarrier];
  for (Meeting* meeting : {&box.own, &box.others}) meeting->done.join({meeting->all.take(), meeting->reads.take()});
}
void Order::wait(Warp& w, int lane, const Instruction& i, const char* mbarrier, bool done) {
  if (!done) return;
  u32 self = number(w, lane);
  see(w, at_mbarrier(self), i, mbarrier, 8);
  if (!i.acquires) return;
  Mailbox& box = mailboxes[mbarrier];
  of(self).known.join(box.own.done);
  if (i.scope >= Scope::CLUSTER) of(self).known.join(box.others.done);
}

// What is sent is written by nobody who has other things in an order: what its mbarrier tells of is known, and no more.
void Order::send(int lane, Sent sent, const char* to, const char* mbarrier) {
  const Instruction& i = *sent.instruction;
  u32 self = number(*sent.warp, lane);
  Thread& t = of(self);
  sent.thread = count + self;
  sent.time = ++t.sent;
  see(*sent.warp, {self, sent.thread, sent.time, false, true, false, Scope::DEVICE}, i, to, 16);
  see(*sent.warp, at_mbarrier(self), i, mbarrier, 8);
  under_way.push_back(sent);
}
void Order::come(const Sent& sent, const char* mbarrier) {
  mailboxes[mbarrier].others.all.add(sent.thread, sent.time, clocks);
}

std::vector<Sent> Order::coming(bool all) {
  if (!all) ++rounds;
  std::vector<Sent> now, later;
  for (const Sent& sent : under_way) {
    chance = chance * 1664525 + 1013904223;
    (all || chance >> 31 ? now : later).push_back(sent);
  }
  for (std::size_t n = now.size(); n > 1; --n) {
    chance = chance * 1664525 + 1013904223;
    std::swap(now[n - 1], now[u64(chance) * n >> 32]);
  }
  under_way = std::move(later);
  return now;
}
