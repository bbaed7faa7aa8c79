// Memory of devices is memory of this process, and known by its ranges.
#include <cstdlib>

#include "device.h"

namespace {

std::map<u64, Range>& ranges() {
  static auto* all = new std::map<u64, Range>;  // outlives whatever is destroyed at exit
  return *all;
}
const Range* found_last = nullptr;

constexpr std::size_t VAST = std::size_t(1) << 30;  // only what is touched of so much is there

}  // namespace

void own(void* memory, std::size_t bytes, int device) {
  u64 start = reinterpret_cast<u64>(memory);
  found_last = nullptr;
  ranges()[start] = {start, bytes, device};
}

void disown(void* memory) {
  found_last = nullptr;
  ranges().erase(reinterpret_cast<u64>(memory));
}

const Range* range_of(u64 address) {
  auto after = ranges().upper_bound(address);
  if (after == ranges().begin()) return nullptr;
  const Range& range = std::prev(after)->second;
  return address < range.start + range.bytes ? &range : nullptr;
}

void require_access(u64 address, std::size_t bytes, bool write, int device, const std::string& what) {
  const Range* range = found_last;
  if (!range || address < range->start || address >= range->start + range->bytes) range = found_last = range_of(address);
  const char* how = write ? "illegal write of " : "illegal read of ";
  if (!range || address + bytes > range->start + range->bytes)
    throw Fault(how + std::to_string(bytes) + " bytes, " +
                (range ? std::to_string(address - range->start) + " into memory of " + std::to_string(range->bytes)
                       : "where nothing is allocated") + ": " + what);
  if (range->device >= 0 && range->device != device)  // pinned memory of the host is everybody's
    throw Fault(how + std::to_string(bytes) + " bytes of device " + std::to_string(range->device) + " on device " +
                std::to_string(device) + ": " + what);
}

std::string place_of(u64 address) {
  const Range* range = range_of(address);
  if (!range) return "where nothing is allocated";
  return "byte " + std::to_string(address - range->start) + " of an allocation of " + std::to_string(range->bytes);
}

void* allocate(std::size_t bytes, int device) {
  void* memory = std::aligned_alloc(512, (bytes + 1023) / 512 * 512);
  if (!memory) return nullptr;
  if (bytes < VAST) std::memset(memory, -1, bytes);  // NaN, in numbers of any width
  own(memory, bytes, device);
  return memory;
}

int release(void* memory) {
  if (!memory) return DONE;
  auto found = ranges().find(reinterpret_cast<u64>(memory));
  if (found == ranges().end()) return refuse(INVALID_VALUE, "free of what was not allocated");
  if (found->second.bytes < VAST) std::memset(memory, -1, found->second.bytes);
  disown(memory);
  std::free(memory);
  return DONE;
}
