// Registers of PTX are many and short-lived: those that are never alive at once share a row, so that the rows of a
// warp stay in the cache. A register is alive from its first to its last instruction in the order of the text, with all
// of every loop around that it is carried through. Lanes are columns of a row: where they stand doesn't matter.
#include <algorithm>

#include "program.h"

namespace {

class Bits {
 public:
  explicit Bits(int n) : words((n + 63) / 64) {}
  void set(int n) { words[n / 64] |= u64(1) << (n % 64); }
  void clear(int n) { words[n / 64] &= ~(u64(1) << (n % 64)); }
  void join(const Bits& other) {
    for (std::size_t n = 0; n < words.size(); ++n) words[n] |= other.words[n];
  }
  bool operator==(const Bits&) const = default;
  template <class F> void each(F f) const {
    for (std::size_t n = 0; n < words.size(); ++n)
      for (u64 word = words[n]; word; word &= word - 1) f(int(n * 64) + __builtin_ctzll(word));
  }

 private:
  std::vector<u64> words;
};

template <class F> void each_operand(Instruction& i, F f) {
  for (int n = 0; n < i.outs; ++n) f(i.out[n], true);
  for (int n = 0; n < i.ins; ++n) f(i.in[n], false);
  f(i.guard, false);
  f(i.members, false);
}

// Alive before each instruction: what it reads, and what is alive after and not written by it, whatever its guard.
std::vector<Bits> alive(std::vector<Instruction>& code, int registers) {
  std::vector<Bits> before(code.size() + 1, Bits(registers));
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t n = code.size(); n-- > 0;) {
      Instruction& i = code[n];
      Bits now = i.kind == Kind::EXIT && i.guard == NOWHERE ? Bits(registers) : before[n + 1];
      if (i.kind == Kind::BRANCH) {
        if (i.guard == NOWHERE) now = before[i.target];
        else now.join(before[i.target]);
      }
      each_operand(i, [&](Row& row, bool written) {
        if (row >= 0 && written && i.guard == NOWHERE) now.clear(row);
      });
      each_operand(i, [&](Row& row, bool written) {
        if (row >= 0 && !written) now.set(row);
      });
      if (now == before[n]) continue;
      before[n] = std::move(now);
      changed = true;
    }
  }
  return before;
}

}  // namespace

void share_rows(Kernel& kernel) {
  struct Life {
    int register_number, first, last;
  };
  std::vector<Life> lives;
  for (int r = 0; r < kernel.registers; ++r) lives.push_back({r, int(kernel.code.size()), -1});
  auto lives_at = [&](int r, int n) {
    lives[r].first = std::min(lives[r].first, n);
    lives[r].last = std::max(lives[r].last, n);
  };
  std::vector<Bits> before = alive(kernel.code, kernel.registers);
  for (int n = 0; n < int(kernel.code.size()); ++n) {
    before[n].each([&](int r) { lives_at(r, n); });
    each_operand(kernel.code[n], [&](Row& row, bool) {
      if (row >= 0) lives_at(row, n);
    });
  }
  std::sort(lives.begin(), lives.end(), [](const Life& a, const Life& b) { return a.first < b.first; });
  std::vector<int> ends;  // of the life that a row was last given to
  std::vector<Row> rows(kernel.registers, NOWHERE);
  for (const Life& life : lives) {
    if (life.last < 0) continue;
    auto row = std::find_if(ends.begin(), ends.end(), [&](int end) { return end < life.first; });
    if (row == ends.end()) row = ends.insert(row, 0);
    *row = life.last;
    rows[life.register_number] = Row(row - ends.begin());
  }
  kernel.registers = int(ends.size());
  for (Instruction& i : kernel.code)
    each_operand(i, [&](Row& row, bool) {
      if (row >= 0) row = rows[row];
      else if (row < NOWHERE) row = kernel.registers + (NOWHERE - 1 - row);
    });
}
