// Check mode: every access of instrumented code is looked at before it happens. Is it inside of what the thread may
// touch, has the shared memory that it reads been written, and does it come after all accesses that it conflicts with?
//
// As in ThreadSanitizer, four bytes of memory have a cell of four records; when more is to be remembered, one of
// them is forgotten. So a race may go unseen, but what is reported is one.

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "machine.h"

namespace emulator {

namespace check {
bool comes_after(const Thread&, uint32_t thread, uint32_t time);
void synchronize(const volatile void*, Access, Order);
void forget_handovers();
}  // namespace check

struct Record {
  uint32_t thread;  // + 1; 0: nothing here
  uint32_t time;
  uint32_t pc;
  uint8_t bytes;  // of the four, one bit each
  bool write, atomic;
};

struct Cell {
  Record records[4];
};

// Memory that reads as zero until it is written, and takes no space until then.
template <typename T>
class Sparse {
 public:
  Sparse() = default;
  explicit Sparse(size_t count) : bytes_(std::max<size_t>(1, count * sizeof(T))) {
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) __builtin_trap();
    data_ = (T*)memory;
  }
  Sparse(Sparse&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Sparse& operator=(Sparse&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Sparse() {
    if (data_) munmap(data_, bytes_);
  }
  T& operator[](size_t i) { return data_[i]; }
  T* data() { return data_; }

 private:
  T* data_ = nullptr;
  size_t bytes_ = 0;
};

// An array of the launch, or the shared memory of a block.
struct Shadow {
  const char *begin = nullptr, *end = nullptr;
  Block* block = nullptr;  // of shared memory
  int region = 0;          // of an array
  Sparse<Cell> cells;
  Sparse<uint8_t> written;  // of shared memory, by bytes

  Shadow(const char* begin, size_t bytes) : begin(begin), end(begin + bytes), cells(bytes / 4 + 2) {}
  bool contains(const char* p) const { return p >= begin && p < end; }
  size_t first_cell() const { return (uintptr_t)begin / 4; }
};

namespace {

std::vector<std::unique_ptr<Shadow>> arrays;   // in the order of addresses
std::vector<std::unique_ptr<Shadow>> shareds;  // of the blocks that run
Shadow* last_array = nullptr;
uint32_t forgotten = 0;

// ---- words for reports

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string text(const char* format, ...) {
  char line[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  return line;
}

std::string place_in(const Shadow& shadow, const char* p) {
  if (!shadow.block) return text("{argument %d %td}", shadow.region, p - shadow.begin);
  const Index b = shadow.block->index;
  const std::string whose = shadow.block == current->block ? "" : text(" of block (%u,%u,%u)", b.x, b.y, b.z);
  const size_t offset = (size_t)(p - shadow.begin), dynamic = machine.dynamic_shared;
  if (offset >= dynamic && offset < dynamic + machine.config->shared_bytes)
    return text("dynamic shared memory, byte %zu%s", offset - dynamic, whose.c_str());
  return text("shared memory {shared %zu}%s", offset, whose.c_str());
}

std::string who(uint32_t number) {
  const uint32_t in_block = number % machine.threads_per_block, block = number / machine.threads_per_block;
  const uint32_t *g = machine.config->grid, *b = machine.config->block;
  return text("block (%u,%u,%u) thread (%u,%u,%u)", block % g[0], block / g[0] % g[1], block / g[0] / g[1],
              in_block % b[0], in_block / b[0] % b[1], in_block / b[0] / b[1]);
}

const char* verb(bool write, bool atomic) {
  if (atomic) return write ? "atomic write" : "atomic or volatile read";
  return write ? "write" : "read";
}

// ---- where an address lies

Shadow* shadow_of(const char* p) {
  Block& mine = *current->block;
  if (p >= mine.shared && p < mine.shared + shared_bytes_of_block()) return mine.shadow;
  if (last_array && last_array->contains(p)) return last_array;
  auto after =
      std::upper_bound(arrays.begin(), arrays.end(), p, [](const char* q, const auto& s) { return q < s->begin; });
  if (after != arrays.begin() && (*(after - 1))->contains(p)) return last_array = (after - 1)->get();
  for (auto& shared : shareds)
    if (shared->contains(p)) return shared.get();
  return nullptr;
}

[[noreturn]] void fail_outside(const char* p, size_t size, bool write) {
  const char* what = write ? "write" : "read";
  if ((uintptr_t)p < 4096) fail("null pointer", "%s of %zu bytes at address %zu", what, size, (size_t)p);
  for (auto& cluster : machine.clusters)
    for (auto& block : cluster->blocks)
      for (Thread& thread : block->threads)
        if (thread.fiber.stack.contains(p))
          fail("out of bounds", "%s of a local variable of another thread, %s", what, who(thread.number).c_str());
  const Shadow* nearest = nullptr;  // the array that ends before p or begins after it, whichever is nearer
  size_t distance = ~(size_t)0;
  for (auto& array : arrays) {
    const size_t d = p >= array->end ? (size_t)(p - array->end) : (size_t)(array->begin - p);
    if (d < distance) distance = d, nearest = array.get();
  }
  if (!nearest) fail("out of bounds", "%s of %zu bytes at %p", what, size, (const void*)p);
  fail("out of bounds", "%s of %zu bytes at %s", what, size, place_in(*nearest, p).c_str());
}

void must_be_reachable(const Shadow& shadow, const char* p, size_t size, bool write) {
  const char* what = write ? "write" : "read";
  if (p + size > shadow.end) {
    if (shadow.block) fail("out of bounds", "%s of %zu bytes across the end of shared memory", what, size);
    fail("out of bounds", "%s of %zu bytes at %s, across its end", what, size, place_in(shadow, p).c_str());
  }
  if (!shadow.block) return;
  const size_t offset = (size_t)(p - shadow.begin), used = machine.config->shared_bytes;
  const size_t in_dynamic = offset - machine.dynamic_shared;
  if (offset + size > machine.dynamic_shared && in_dynamic < dynamic_shared_capacity && in_dynamic + size > used)
    fail("out of bounds", "%s of %zu bytes at byte %zu of dynamic shared memory, which has %zu", what, size, in_dynamic,
         used);
  if (shadow.block == current->block) return;
  if (shadow.block->cluster != current->block->cluster)
    fail("out of bounds", "%s of the shared memory of a block outside of the cluster", what);
  if (shadow.block->cluster->phase == 0)
    fail("cluster barrier",
         "%s of the shared memory of another block before the cluster's first barrier: that block "
         "may not have started",
         what);
  if (shadow.block->live == 0)
    fail("cluster barrier", "%s of the shared memory of another block that has returned", what);
}

// ---- races

void look(const Shadow& shadow, Cell& cell, const char* p, const Record& mine) {
  for (Record& r : cell.records) {
    if (!r.thread) continue;
    const bool before = check::comes_after(*current, r.thread - 1, r.time);
    if (!before && r.bytes & mine.bytes && (r.write || mine.write) && !(r.atomic && mine.atomic))
      fail("race", "%s of %s, after the %s by %s at {pc %x}: nothing puts one before the other",
           verb(mine.write, mine.atomic), place_in(shadow, p).c_str(), verb(r.write, r.atomic),
           who(r.thread - 1).c_str(), r.pc);
    // Forget what this access stands for as well: who comes after this one comes after the old one.
    if (before && !(r.bytes & ~mine.bytes) && (mine.write || !r.write) && (r.atomic || !mine.atomic)) r.thread = 0;
  }
  Record* end = std::end(cell.records);
  Record* place = std::find_if(cell.records, end, [](const Record& r) { return !r.thread; });
  *(place == end ? &cell.records[forgotten++ % 4] : place) = mine;
}

void look_at_all(const volatile void* address, size_t size, bool write, bool atomic, const void* pc) {
  const char* p = (const char*)address;
  Thread& self = *current;
  if (self.fiber.stack.contains(p)) return;
  calling_pc = pc;
  Shadow* shadow = shadow_of(p);
  if (!shadow) {
    if (is_in_library(p)) return;  // constants and __device__ variables are not watched
    fail_outside(p, size, write);
  }
  must_be_reachable(*shadow, p, size, write);
  if (shadow->block) {
    uint8_t* written = shadow->written.data() + (p - shadow->begin);
    if (write)
      std::memset(written, 1, size);
    else if (std::memchr(written, 0, size))
      fail("uninitialised", "read of %s, which nobody has written", place_in(*shadow, p).c_str());
  }
  Record mine{self.number + 1, self.clock.now, offset_in_library(pc), 0, write, atomic};
  const uintptr_t begin = (uintptr_t)p, end = begin + size;
  for (uintptr_t unit = begin / 4; unit * 4 < end; ++unit) {
    const uintptr_t from = std::max(begin, unit * 4) - unit * 4, to = std::min(end, unit * 4 + 4) - unit * 4;
    mine.bytes = (uint8_t)((1u << to) - (1u << from));
    look(*shadow, shadow->cells[unit - shadow->first_cell()], (const char*)(unit * 4 + from), mine);
  }
}

}  // namespace

// ---- hooks

namespace check {

void launch_starts() {
  const LaunchConfig& config = *machine.config;
  arrays.clear();
  shareds.clear();
  last_array = nullptr;
  for (uint32_t i = 0; i < config.region_count; ++i) {
    arrays.push_back(std::make_unique<Shadow>(config.regions[i].begin, config.regions[i].bytes));
    arrays.back()->region = (int)i;
  }
  std::sort(arrays.begin(), arrays.end(), [](const auto& a, const auto& b) { return a->begin < b->begin; });
}

void launch_ends() {
  arrays.clear();
  shareds.clear();
  last_array = nullptr;
  forget_handovers();
}

void block_starts(Block& block) {
  shareds.push_back(std::make_unique<Shadow>(block.shared, shared_bytes_of_block()));
  block.shadow = shareds.back().get();
  block.shadow->block = &block;
  block.shadow->written = Sparse<uint8_t>(shared_bytes_of_block());
  for (uint32_t i = 0; i < machine.config->guard_count; ++i)  // by poison_shared
    std::memset(block.shadow->written.data() + machine.config->guards[i], 1, 8);
}

void block_ends(Block& block) {
  shareds.erase(std::find_if(shareds.begin(), shareds.end(), [&](const auto& s) { return s->block == &block; }));
}

// That shared memory goes away is like a write by the block: what other blocks did with it must come before.
void block_returns(Block& block) {
  if (block.cluster->blocks.size() == 1) return;
  Shadow& shadow = *block.shadow;
  JointClock all;
  for (Thread& thread : block.threads) join(all, thread);
  for (size_t offset = 0; offset < shared_bytes_of_block(); offset += 4) {
    if (!shadow.written[offset]) continue;
    for (const Record& r : shadow.cells[((uintptr_t)shadow.begin + offset) / 4 - shadow.first_cell()].records)
      if (r.thread && (r.thread - 1) / machine.threads_per_block != block.number && (*all.times)[r.thread - 1] < r.time)
        fail("cluster barrier",
             "this block returns, and nothing makes it wait for the %s of its shared memory by %s at {pc %x}",
             verb(r.write, r.atomic), who(r.thread - 1).c_str(), r.pc);
  }
}

void access(const volatile void* address, size_t size, Access access, bool atomic, const void* pc) {
  if (access != Access::store) look_at_all(address, size, false, atomic, pc);
  if (access != Access::load) look_at_all(address, size, true, atomic, pc);
}

}  // namespace check

void atomic_begin(const volatile void* address, size_t size, Access access, Order order) {
  step();
  calling_pc = __builtin_return_address(0);
  must_be_aligned(address, size);
  in_atomic = true;
  check::access(address, size, access, true, calling_pc);
  check::synchronize(address, access, order);
}

// ---- what code compiled with -fsanitize=thread, bounds and alignment calls

namespace {

void plain(const void* address, size_t size, bool write, const void* pc) {
  if (!current || in_atomic) return;
  step();
  look_at_all(address, size, write, false, pc);
}

// Like a relaxed atomic, as compilers for GPUs have it.
void volatile_access(const void* address, size_t size, Access access, const void* pc) {
  if (!current || in_atomic) return;
  if (current->fiber.stack.contains((const char*)address)) return;
  step();
  look_at_all(address, size, access == Access::store, true, pc);
  check::synchronize(address, access, Order::relaxed);
  if (access == Access::store) note_progress();
}

}  // namespace

struct SourcePlace {
  const char* file;
  unsigned line, column;
};

#define EMULATOR_PC __builtin_return_address(0)
#define EMULATOR_CALLBACKS(size)                                                                              \
  void __tsan_read##size(void* p) { plain(p, size, false, EMULATOR_PC); }                                     \
  void __tsan_write##size(void* p) { plain(p, size, true, EMULATOR_PC); }                                     \
  void __tsan_unaligned_read##size(void* p) { plain(p, size, false, EMULATOR_PC); }                           \
  void __tsan_unaligned_write##size(void* p) { plain(p, size, true, EMULATOR_PC); }                           \
  void __tsan_volatile_read##size(void* p) { volatile_access(p, size, Access::load, EMULATOR_PC); }           \
  void __tsan_volatile_write##size(void* p) { volatile_access(p, size, Access::store, EMULATOR_PC); }         \
  void __tsan_unaligned_volatile_read##size(void* p) { volatile_access(p, size, Access::load, EMULATOR_PC); } \
  void __tsan_unaligned_volatile_write##size(void* p) { volatile_access(p, size, Access::store, EMULATOR_PC); }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
EMULATOR_CALLBACKS(1)
EMULATOR_CALLBACKS(2)
EMULATOR_CALLBACKS(4)
EMULATOR_CALLBACKS(8)
EMULATOR_CALLBACKS(16)
void __tsan_read_range(void* p, size_t size) { plain(p, size, false, EMULATOR_PC); }
void __tsan_write_range(void* p, size_t size) { plain(p, size, true, EMULATOR_PC); }

void __ubsan_handle_out_of_bounds(SourcePlace* at, size_t index) {
  if (!current) return;
  calling_pc = nullptr;
  fail("out of bounds", "index %zd of an array of fixed size at %s:%u", (ssize_t)index, at->file, at->line);
}

struct MisalignedAccess {
  SourcePlace at;
  const void* type;
  unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(MisalignedAccess* access, size_t address) {
  if (!current) return;
  calling_pc = nullptr;
  if (address < 4096) fail("null pointer", "used at %s:%u", access->at.file, access->at.line);
  fail("misaligned", "an address that is not a multiple of %u is used as one at %s:%u", 1u << access->log_alignment,
       access->at.file, access->at.line);
}
}

}  // namespace emulator
