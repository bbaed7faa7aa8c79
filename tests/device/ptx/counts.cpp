// What a launch executes, where GPU_LSTM_DEVICE_COUNTS names a file: a line of JSON a launch, an entry an instruction:
// its name, how many warps and how many lanes did it, what it touched of memory, and of a branch, where to.
//
// Of global memory that is sectors of 32 bytes, each once for an instruction of a warp. Of shared memory, turns: in one,
// each of the 32 banks gives 4 bytes, so that 32 lanes take one for 4 bytes each, two for 8 and four for 16, or more
// where lanes want other words of the same bank. A multiprocessor has a turn a cycle.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "machine.h"

namespace {

constexpr int SECTOR = 32, BANKS = 32, WORD = 4;

std::string name_of(const Instruction& i) {
  std::size_t from = i.text[0] == '@' ? i.text.find(' ') + 1 : 0;
  return i.text.substr(from, i.text.find(' ', from) - from);
}

bool touches_memory(const Instruction& i) {
  std::string name = name_of(i), base = name.substr(0, name.find('.'));
  return base == "ld" || base == "st" || base == "atom" || base == "red";
}

u64 sectors(const std::vector<u64>& addresses, std::size_t bytes) {
  std::set<u64> touched;
  for (u64 address : addresses)
    for (u64 sector = address / SECTOR; sector <= (address + bytes - 1) / SECTOR; ++sector) touched.insert(sector);
  return touched.size();
}

u64 turns(const std::vector<u64>& addresses, std::size_t bytes) {
  std::size_t together = std::min<std::size_t>(LANES, BANKS * WORD / bytes);  // lanes whose numbers fill a turn
  u64 all = 0;
  for (std::size_t first = 0; first < addresses.size(); first += together) {
    std::set<u64> words[BANKS];
    std::size_t most = 0;
    for (std::size_t n = first; n < std::min(first + together, addresses.size()); ++n)
      for (u64 word = addresses[n] / WORD; word <= (addresses[n] + bytes - 1) / WORD; ++word) {
        words[word % BANKS].insert(word);
        most = std::max(most, words[word % BANKS].size());
      }
    all += most;
  }
  return all;
}

}  // namespace

const char* counts_file() {
  const char* file = std::getenv("GPU_LSTM_DEVICE_COUNTS");
  return file && *file ? file : nullptr;
}

void Run::count(Warp& w, const Instruction& i, Mask active) {
  Count& c = counts[&i - code.data()];
  ++c.warps;
  c.lanes += std::popcount(active);
  bool global = i.space == Space::GENERIC, shared = i.space == Space::SHARED;
  if (!active || !(global || shared) || !i.size || !touches_memory(i)) return;
  std::vector<u64> addresses;
  for_lanes(active, [&](int lane) { addresses.push_back(w.row(i.in[0])[lane] + i.offset); });
  std::size_t bytes = std::size_t(i.size) * i.count;
  c.memory += global ? sectors(addresses, bytes) : turns(addresses, bytes);
}

void Run::tell_counts() const {
  if (counts.empty()) return;
  std::FILE* to = std::fopen(counts_file(), "a");
  if (!to) throw Fault(std::string("can't write ") + counts_file());
  std::fprintf(to, "{\"kernel\": \"%s\", \"blocks\": %u, \"threads\": %u, \"code\": [", launch.kernel->name.c_str(),
               launch.grid[0] * launch.grid[1] * launch.grid[2], launch.block[0] * launch.block[1] * launch.block[2]);
  for (std::size_t n = 0; n < code.size(); ++n)
    std::fprintf(to, "%s[\"%s\", %llu, %llu, %llu, %d]", n ? ", " : "", name_of(code[n]).c_str(),
                 (unsigned long long)counts[n].warps, (unsigned long long)counts[n].lanes,
                 (unsigned long long)counts[n].memory, code[n].kind == Kind::BRANCH ? code[n].target : -1);
  std::fprintf(to, "]}\n");
  std::fclose(to);
}
