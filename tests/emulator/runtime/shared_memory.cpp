// Shared variables are thread-local ones of the kernel's library, and code compiled to be shared asks __tls_get_addr
// where such a variable is. This library brings its own, hidden from all others, which answers for the running block.

#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "machine.h"

// Defined after the kernel text; every `extern __shared__` array is another name for it.
extern "C" {
extern thread_local char emulator_dynamic_shared[] __attribute__((visibility("hidden")));
}

namespace emulator {

namespace {

constexpr size_t guard_bytes = 256;     // looked at when a block ends
constexpr unsigned char poison = 0xff;  // NaN in every floating-point type, -1 in integers

struct Layout {
  size_t bytes = 0, alignment = 128;
};

// Size of the thread-local variables of this library.
int find_layout(dl_phdr_info* library, size_t, void* out) {
  const char* here = (const char*)&machine;
  bool is_this = false;
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    const auto& segment = library->dlpi_phdr[i];
    const char* begin = (const char*)library->dlpi_addr + segment.p_vaddr;
    is_this |= segment.p_type == PT_LOAD && here >= begin && here < begin + segment.p_memsz;
  }
  for (int i = 0; is_this && i < library->dlpi_phnum; ++i) {
    const auto& segment = library->dlpi_phdr[i];
    if (segment.p_type == PT_TLS) *(Layout*)out = {segment.p_memsz, std::max<size_t>(128, segment.p_align)};
  }
  return is_this;
}

const Layout& layout() {
  static const Layout found = [] {
    Layout l;
    dl_iterate_phdr(find_layout, &l);
    return l;
  }();
  return found;
}

size_t guard_of_dynamic() { return std::min(guard_bytes, dynamic_shared_capacity - machine.config->shared_bytes); }

}  // namespace

size_t find_dynamic_shared() { return (size_t)emulator_dynamic_shared; }
size_t shared_bytes_of_block() { return layout().bytes; }

void poison_shared(Block& block) {
  const size_t dynamic = machine.dynamic_shared, used = machine.config->shared_bytes;
  const char* guard = block.shared + dynamic + used;
  if (block.live == 0 && !machine.failed)
    for (size_t i = 0; i < guard_of_dynamic(); ++i)
      if ((unsigned char)guard[i] != poison) {
        report_after_block(block, "out of bounds",
                           "something wrote past the end of dynamic shared memory, at byte %zu of %zu", used + i, used);
        return;
      }
  std::memset(block.shared, poison, dynamic + used + guard_of_dynamic());
  const size_t rest = dynamic + dynamic_shared_capacity;
  std::memset(block.shared + rest, poison, layout().bytes - rest);
}

void allocate_shared(Block& block) {
  const size_t unit = layout().alignment;
  block.shared = (char*)std::aligned_alloc(unit, (layout().bytes + unit - 1) / unit * unit);
  poison_shared(block);
}

void free_shared(Block& block) { std::free(block.shared); }

void* map_to_block_of_cluster(const void* shared, unsigned rank) {
  calling_pc = __builtin_return_address(0);
  Cluster& cluster = *current->block->cluster;
  const char* p = (const char*)shared;
  for (auto& block : cluster.blocks) {
    if (p < block->shared || p >= block->shared + shared_bytes_of_block()) continue;
    if (rank >= cluster.blocks.size())
      fail("out of bounds", "block %u of a cluster of %zu", rank, cluster.blocks.size());
    return cluster.blocks[rank]->shared + (p - block->shared);
  }
  fail("out of bounds", "an address that is not in shared memory is mapped to another block of the cluster");
}

extern "C" {
struct emulator_tls_index {
  size_t module, offset;
};
__attribute__((visibility("hidden"))) void* __tls_get_addr(emulator_tls_index* variable) {
  return (current ? current->block->shared : nullptr) + variable->offset;
}
}

}  // namespace emulator
